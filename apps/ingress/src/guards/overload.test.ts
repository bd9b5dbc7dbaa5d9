import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { createLogger } from '@opm/runtime';
import { createOverload, type OverloadDeps, watchStalls } from './overload.js';

const start = (deps: Partial<OverloadDeps> = {}) =>
  createOverload({
    load: async () => ({ entries: 0, memory: 0 }),
    maxBacklog: 10,
    maxEventLoopDelayMs: 30,
    onShed: () => {},
    logger: createLogger({ name: 'test', level: 'silent' }),
    ...deps,
  });

const isRefusing = (check: () => void): boolean => {
  try {
    check();
    return false;
  } catch {
    return true;
  }
};
const isShedding = ({ check }: ReturnType<typeof createOverload>) => isRefusing(check);
const isSheddingReads = ({ checkRead }: ReturnType<typeof createOverload>) =>
  isRefusing(() => checkRead('CUSTOMERS_UNAVAILABLE'));
const turn = () => new Promise((resolve) => setImmediate(resolve));
/** Blocks the event loop, as many requests would. */
const blockFor = (ms: number) => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

test('entries and reads are refused while the event loop is late, and accepted once it is on time', async () => {
  const shed: string[] = [];
  const overload = start({ onShed: (reason) => shed.push(reason) });
  try {
    expect([isShedding(overload), isSheddingReads(overload)]).toEqual([false, false]);
    for (let turns = 0; turns < 100 && !isShedding(overload); turns++) {
      blockFor(100);
      await turn();
    }
    expect(isSheddingReads(overload)).toBe(true);
    expect(shed).toEqual(['event-loop', 'event-loop']);
    while (isShedding(overload)) await turn();
    expect(isSheddingReads(overload)).toBe(false);
  } finally {
    overload.close();
  }
});

test('the last load of the queue stays in use while the queue does not answer', async () => {
  let load: () => Promise<{ entries: number; memory: number }> = async () => ({ entries: 10, memory: 0 });
  let calls = 0;
  const overload = start({
    maxEventLoopDelayMs: 600_000,
    load: () => {
      calls++;
      return load();
    },
  });
  const passCalls = async (more: number) => {
    for (const until = calls + more; calls < until; ) await turn();
  };
  try {
    while (!isShedding(overload)) await turn();
    expect(isSheddingReads(overload)).toBe(false); // reads do not fill the queue
    load = () => Promise.reject(new Error('away'));
    await passCalls(3);
    expect(isShedding(overload)).toBe(true);
    load = async () => ({ entries: 9, memory: 0 });
    while (isShedding(overload)) await turn();
    load = async () => ({ entries: 0, memory: 0.9 });
    while (!isShedding(overload)) await turn();
  } finally {
    overload.close();
  }
});

const standStillFor = (ms: number) => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

test('requests from before the end of a stall are stale, also in the first turn after it; later ones are not', async () => {
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
