import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { CustomerEntry } from '@opm/core';
import { createEntryQueue, type EntryQueue, openDashboardQueues } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';

const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };

// PostgreSQL cannot store U+0000 in text. The ingress rejects it, so these tests enqueue the chunk directly. With the
// queue on PostgreSQL, job data cannot contain it either: there, a customer id too long for an index takes its place.
const INVALID = { Redis: { email: 'jane\0@example.com' }, PostgreSQL: undefined };

const T0 = 1_764_000_000_000_000;
const randomId = () =>
  Array.from({ length: 9_000 }, () => String.fromCodePoint(33 + Math.floor(Math.random() * 90))).join('');

describe.each(BACKENDS)('invalid data in the queue on %s:', (name, createBackend) => {
  let backend: Backend;
  let store: Store;
  let queue: EntryQueue;
  let worker: TestApp;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    queue = await createEntryQueue({ ...backend, ...options });
    worker = await startApp('worker', { ...backend.env, WORKER_CONCURRENCY: '100' });
  });
  afterAll(async () => {
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
    await queue.close();
    await store.close();
    await backend.drop();
  });

  const countStored = async (projectId: number, entries: CustomerEntry[]) => {
    const asked = entries.filter(({ customerId }) => customerId.length < 100);
    const versioned = asked.map(({ customerId }) => ({ projectId, customerId, version: Number.MAX_SAFE_INTEGER }));
    return (await store.customers.findExisting(versioned)).size;
  };

  async function untilEmpty(): Promise<void> {
    const { queues, close } = await openDashboardQueues({ ...backend, ...options });
    const isEmpty = async () =>
      Object.values((await queues[0]?.getJobCounts()) ?? { none: 1 }).every((jobs) => jobs === 0);
    await waitFor(isEmpty, { description: 'an empty queue' }).finally(close);
  }

  test('7 bad entries among 1,000 become dead letters, and the other 993 are rows', async () => {
    const bad = new Set([0, 13, 14, 500, 501, 777, 999]);
    const entries = Array.from({ length: 1_000 }, (_, i) => {
      const entry = { customerId: `c${i}`, version: T0 + i, fields: { email: 'jane@example.com' } };
      if (!bad.has(i)) return entry;
      return INVALID[name] ? { ...entry, fields: INVALID[name] } : { ...entry, customerId: randomId() };
    });
    for (let i = 0; i < 1_000; i += 100) {
      await queue.enqueue(0, { entries: entries.slice(i, i + 100).map((entry) => ({ projectId: 1, ...entry })) });
    }
    const list = () => store.deadLetters.list({ projectId: 1 }, { limit: 100 });
    await waitFor(async () => (await list()).length === bad.size, { description: 'the dead letters' });
    await waitFor(async () => (await countStored(1, entries)) === 993, { description: 'the rows' });

    const letters = await list();
    expect(letters.map(({ version }) => Number(version) - T0).sort((a, b) => a - b)).toEqual([...bad]);
    const letter = letters.find(({ version }) => Number(version) === T0 + 999);
    expect(letter?.sqlState).toMatch(name === 'Redis' ? /^22P05$/ : /^54000$/);
    const whole = await store.deadLetters.find(letter?.deadLetterId ?? '0');
    expect(whole?.payload).toEqual(entries[999]);
  });

  test('one bad entry among 1,000 costs a few statements, not the twenty of a bisection', async () => {
    const bad = INVALID[name] ? { fields: INVALID[name] } : { customerId: randomId() };
    const entries = Array.from({ length: 1_000 }, (_, i) => ({
      customerId: `one bad ${i}`,
      version: T0 + i,
      fields: { email: 'jane@example.com' },
      ...(i === 617 && bad),
    }));
    const statements = () => worker.readMetric('opm_statement_rows_count');
    await untilEmpty(); // so that the statements of the previous test are counted
    const before = await statements();
    await queue.enqueue(0, { entries: entries.map((entry) => ({ projectId: 2, ...entry })) });
    await waitFor(async () => (await store.deadLetters.list({ projectId: 2 }, { limit: 2 })).length === 1, {
      description: 'the dead letter',
    });
    await waitFor(async () => (await countStored(2, entries)) === 999, { description: 'the rows' });
    // One shared statement, then isolation statements, each of which processes entries for half a second.
    expect((await statements()) - before).toBeLessThan(20);
  });

  test('a job with invalid data becomes a dead letter, and no job fails', async () => {
    const dashboard = await openDashboardQueues({ ...backend, ...options });
    await dashboard.queues[0]?.add('chunk', { odd: ['data'] }, { removeOnComplete: true });
    const list = () => store.deadLetters.list({}, { limit: 1 });
    await waitFor(async () => (await list())[0]?.projectId === null, { description: 'the dead letter' });
    expect((await list())[0]?.error).toMatch(/^job data is not a chunk/);
    const counts = () => dashboard.queues[0]?.getJobCounts();
    await waitFor(async () => Object.values((await counts()) ?? { none: 1 }).every((count) => count === 0), {
      description: 'an empty queue',
    });
    await dashboard.close();
    expect(worker.output()).not.toMatch(/jane|odd/);
  });
});
