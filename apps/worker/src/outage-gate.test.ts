import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, expect, test } from '@jest/globals';
import { Postponed } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import { StoreError } from '@opm/store';
import { createOutageGate } from './outage-gate.js';

const readOnly = new StoreError('read-only', { kind: 'outage', sqlState: '25006' });
const lost = new StoreError('Connection terminated', { kind: 'outage' });
const untrusted = new StoreError('unknown error of the connection');
const ofTrigger = new StoreError('no', { sqlState: 'P0001' });

let ending: AbortController;
afterEach(() => ending.abort());

/** A gate whose test writes fail with these errors, in turn; then they succeed. */
function createGate(...failures: Error[]) {
  ending = new AbortController();
  const events: string[] = [];
  const gate = createOutageGate({
    ping: async () => {},
    async tryWrite() {
      const error = failures.shift();
      if (error) throw error;
    },
    worker: { pause: () => events.push('pause'), resume: () => events.push('resume') },
    logger: createLogger({ name: 'test', level: 'silent' }),
    onPaused: (isPaused) => events.push(isPaused ? 'outage' : 'over'),
    signal: ending.signal,
  });
  const until = async (event: string) => {
    while (!events.includes(event)) await nextTurn();
  };
  return { gate, events, until, left: failures };
}

const fail = (error: Error) => () => Promise.reject(error);

test('an outage is over once a test write succeeds, although the worker gets no job', async () => {
  const { gate, events, until } = createGate();
  await expect(gate.run(fail(lost))).rejects.toThrow(Postponed);
  await until('over');
  expect(events).toEqual(['pause', 'outage', 'resume', 'over']);
});

test.each([readOnly, ofTrigger])('after a test write failed with %p, the next one ends the outage', async (error) => {
  const { gate, events, until } = createGate(error);
  await expect(gate.run(fail(lost))).rejects.toThrow(Postponed);
  await until('over');
  expect(events).toEqual(['pause', 'outage', 'resume', 'over']);
});

test.each([readOnly, ofTrigger])(
  'while a test write fails with %p, the outage lasts until a write succeeds',
  async (error) => {
    const { gate, events, until, left } = createGate(error);
    await expect(gate.run(fail(lost))).rejects.toThrow(Postponed);
    await until('resume');
    while (left.length > 0) await nextTurn();
    await nextTurn();
    expect(events).toEqual(['pause', 'outage', 'resume']);
    await gate.run(async () => {});
    expect(events).toEqual(['pause', 'outage', 'resume', 'over']);
  },
);

test('an error without a SQLSTATE does not show that PostgreSQL accepts writes', async () => {
  const { gate, events } = createGate(untrusted);
  await expect(gate.check()).rejects.toThrow(Postponed);
  expect(events).toEqual(['pause', 'outage']);
});

test('an outage error of one entry does not pause the worker', async () => {
  const { gate, events } = createGate();
  await expect(gate.run(fail(readOnly))).rejects.toBe(readOnly);
  expect(events).toEqual([]);
});
