import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, type EntryQueue, openDashboardQueues, toPriority } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, query, startApp, waitFor } from '@opm/testkit';

const BACKLOG = 10_000;
const CHUNK = 100;

describe.each(BACKENDS)('with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let queue: EntryQueue;
  const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    queue = await createEntryQueue({ ...backend, ...options });
  });
  afterAll(async () => {
    await queue.close();
    await store.close();
    await backend.drop();
  });

  const enqueueAsIngress = async (projectId: number, customerIds: string[]) => {
    const requests = customerIds.map((customerId) => ({ projectId, customerId }));
    const { admitted, backlogs } = await queue.admit(0, requests);
    const entries = admitted.map(({ customerId, version }) => ({
      projectId,
      customerId,
      version,
      fields: { phone: '+1' },
    }));
    await queue.enqueue(0, { entries }, toPriority(backlogs.get(projectId) ?? 0));
  };
  const countStored = async (projectId: number, customerIds: string[]) => {
    const queries = customerIds.map((customerId) => ({ projectId, customerId, version: Number.MAX_SAFE_INTEGER }));
    return (await store.customers.findExisting(queries)).size;
  };

  test('a short backlog does not wait behind a long one, and the long one is finished too', async () => {
    const much = Array.from({ length: BACKLOG }, (_, i) => `much ${i}`);
    for (let i = 0; i < BACKLOG; i += CHUNK) await enqueueAsIngress(1, much.slice(i, i + CHUNK));
    await enqueueAsIngress(2, ['little']);
    expect((await queue.load()).entries).toBe(BACKLOG + 1);

    // Only a few jobs at a time, so that jobs finish in the order in which the worker takes them.
    const worker = await startApp('worker', { ...backend.env, WORKER_CONCURRENCY: '2', STATEMENT_MAX_ROWS: '100' });
    await waitFor(async () => (await countStored(2, ['little'])) === 1, {
      description: 'the entry of the short backlog',
    });
    const sooner = `SELECT FROM customers WHERE project_id = 1
      AND xmin::text::bigint < (SELECT xmin::text::bigint FROM customers WHERE project_id = 2)`;
    expect((await query(backend.databaseUrl, sooner)).length).toBeLessThan(BACKLOG / 2);
    await waitFor(async () => (await queue.load()).entries === 0, { description: 'no backlog' });
    expect(await countStored(1, much)).toBe(BACKLOG);
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
  });

  test('while a project with a short backlog sends entries, the statements of a long backlog are small', async () => {
    const much = Array.from({ length: 2 * BACKLOG }, (_, i) => `more ${i}`);
    for (let i = 0; i < much.length; i += CHUNK) await enqueueAsIngress(4, much.slice(i, i + CHUNK));

    const worker = await startApp('worker', { ...backend.env, STATEMENT_MAX_ROWS: '400' });
    const countWaiting = async () => (await queue.load()).entries;
    while ((await countWaiting()) > CHUNK) await enqueueAsIngress(5, ['often']);
    await waitFor(async () => (await countWaiting()) === 0, { description: 'no backlog' });
    const statements = await worker.readMetric('opm_statement_rows_count');
    const small = await worker.readMetric('opm_statement_rows_bucket{le="100"}');
    expect(small).toBeGreaterThan((2 * BACKLOG) / CHUNK / 2);
    // Large are statements of its first entries, which count as a short backlog, and any while project 5 was late.
    // Without the reserve, all 50 would be large.
    expect(statements - small).toBeLessThan(25);
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
  });

  test('jobs of a short backlog have no priority value, whatever other projects do', async () => {
    await enqueueAsIngress(3, ['a']);
    const { queues, close } = await openDashboardQueues({ ...backend, ...options });
    expect(await queues[0]?.getJobCounts('waiting', 'prioritized')).toEqual({ waiting: 1, prioritized: 0 });
    await close();
  });
});
