import { expect, test } from '@jest/globals';
import { BACKENDS, createBackend, startProxy, waitFor } from '@opm/testkit';
import { createEntryQueue, createEntryWorker, startMaintenance } from '../src/index.js';

const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };

test.each(BACKENDS)(
  'on %s a task runs once per period however many processes there are, also after it has failed',
  async (_, createBackend) => {
    const backend = await createBackend();
    const runs: number[] = [];
    const failures: string[] = [];
    const start = () =>
      startMaintenance({
        ...backend,
        ...options,
        tasks: {
          count: {
            everyMs: 1_000,
            run: async () => {
              runs.push(Date.now());
              if (runs.length === 1) throw new Error('not now');
            },
          },
        },
        onDone: () => {},
        onFailed: (task, { message }) => failures.push(`${task}: ${message}`),
      });
    const processes = [await start(), await start()];
    const startedAt = Date.now();
    await waitFor(() => runs.length === 4, { description: 'four runs' });
    await Promise.all(processes.map(({ close }) => close()));
    await backend.drop();
    // Runs stand on the period's grid: the fourth is at least two whole periods after the first.
    expect((runs[3] ?? 0) - (runs[0] ?? startedAt)).toBeGreaterThan(2_000);
    expect(failures).toEqual(['count: not now']);
  },
);

test.each(BACKENDS)(
  'on %s a backlog that cannot be in the queue is corrected, and one that can be is not',
  async (_, createBackend) => {
    const backend = await createBackend();
    const queue = await createEntryQueue({ ...backend, ...options, shards: 2 });
    // Admitted by an ingress that was killed before it could enqueue them.
    await queue.admit(0, 1, [{ customerId: 'lost' }]);
    const { admitted, backlog } = await queue.admit(1, 1, [{ customerId: 'waiting' }]);
    const entries = admitted.map(({ customerId, version }) => ({ customerId, version, fields: { phone: '+1' } }));
    await queue.enqueue(1, { v: 1, projectId: 1, entries }, backlog);
    expect((await queue.load()).entries).toBe(2);
    const done: string[] = [];
    const maintenance = await startMaintenance({
      ...backend,
      ...options,
      shards: 2,
      tasks: {},
      onDone: (task) => done.push(task),
      onFailed: () => {},
    });
    await waitFor(() => done.includes('limit-backlogs'), { description: 'the task' });
    expect((await queue.load()).entries).toBe(1);
    await maintenance.close();
    await queue.close();
    await backend.drop();
  },
);

test('with a Redis that goes away at that very moment, workers and maintenance close all the same', async () => {
  const proxy = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
  const backend = await createBackend(proxy.url);
  const place = { ...backend, ...options };
  const maintenance = await startMaintenance({ ...place, tasks: {}, onDone: () => {}, onFailed: () => {} });
  const worker = await createEntryWorker({
    ...place,
    concurrency: 1,
    lockMs: 20_000,
    process: async () => {},
    bury: async () => {},
    onPostponed: () => {},
    onRetry: () => {},
  });
  worker.start();
  await worker.check();
  await proxy.cut();
  // Neither ends as long as it waits for Redis.
  await Promise.all([maintenance.close(), worker.close()]);
  await backend.drop();
});
