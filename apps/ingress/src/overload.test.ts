import { expect, test } from '@jest/globals';
import { createLogger } from '@opm/runtime';
import { createOverload, type OverloadDeps } from './overload.js';

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
const isSheddingReads = ({ checkRead }: ReturnType<typeof createOverload>) => isRefusing(checkRead);
const turn = () => new Promise((resolve) => setImmediate(resolve));
/** Keeps the event loop as busy as many requests would: with one turn after the other. */
const blockFor = (ms: number) => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

test('an event loop that is late again and again turns entries and reads away until it is on time', async () => {
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

test('what is known of the queue holds until it says something else, also while it cannot be asked', async () => {
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
    expect(isSheddingReads(overload)).toBe(false); // they put nothing into the queue
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
