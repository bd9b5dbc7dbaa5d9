import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { watchStalls } from './watch-stalls.js';

const standStillFor = (ms: number) => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

test('what came before a stall was over is stale, in its first turn too, and what comes some turns later is not', async () => {
  const noticed: number[] = [];
  const stalls = watchStalls(1_000, (ms) => noticed.push(ms));
  try {
    const before = performance.now();
    expect(stalls.isStale(before)).toBe(false);
    standStillFor(1_300);
    const inFirstTurn = performance.now();
    expect(stalls.isStale(inFirstTurn)).toBe(true);
    await nextTurn();
    expect(stalls.isStale(performance.now())).toBe(true);
    while (stalls.isStale(performance.now())) await nextTurn();
    expect([before, inFirstTurn].map(stalls.isStale)).toEqual([true, true]);
    expect(noticed.length).toBeGreaterThan(0);
    expect(noticed[0]).toBeGreaterThanOrEqual(1_000);
  } finally {
    stalls.close();
  }
});
