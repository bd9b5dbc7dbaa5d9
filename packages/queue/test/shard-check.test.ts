import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { BACKENDS, type Backend, createBackend, waitFor } from '@opm/testkit';
import pg from 'pg';
import { createEntryQueue, createEntryWorker, openDashboardQueues } from '../src/index.js';
import { connectQueueBackend } from '../src/queue-backend.js';
import { createShardCheck } from '../src/shard-check.js';
import { IDLE_WORKER } from './idle-worker.js';

const chunk = { entries: [{ projectId: 1, customerId: 'jane', version: 1, fields: { email: 'a@example.com' } }] };

describe.each(BACKENDS)('the number of shards, with the queue on %s,', (_, createPlace) => {
  let backend: Backend;
  const opened: { close(): Promise<void> }[] = [];
  beforeEach(async () => {
    backend = await createPlace();
  });
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((it) => it.close()));
    await backend.drop();
  });

  const keep = <T extends { close(): Promise<void> }>(it: T): T => {
    opened.push(it);
    return it;
  };
  const toOptions = (shards: number) => ({
    ...backend,
    shards,
    signal: new AbortController().signal,
    onError: () => {},
  });
  const openQueue = async (shards: number) => keep(await createEntryQueue(toOptions(shards)));
  const openWorker = async (shards: number) => keep(await createEntryWorker({ ...toOptions(shards), ...IDLE_WORKER }));
  const openDashboard = async (shards: number) => keep(await openDashboardQueues(toOptions(shards)));
  const refusal = 'QUEUE_SHARDS is 2, but the queue has 1';

  test('cannot change while entries wait', async () => {
    const queue = await openQueue(1);
    await queue.enqueue(0, chunk);
    await expect(openQueue(2)).rejects.toThrow(refusal);
    await expect(openWorker(2)).rejects.toThrow(refusal);
    await openQueue(1);
  });

  test('is neither stored nor changed by a process that only reads it; with another number, its entries are refused', async () => {
    const openReader = async (shards: number) =>
      keep(await createEntryQueue({ ...toOptions(shards), onlyReadsShards: true }));
    const early = await openReader(2);
    await early.check();
    await openQueue(1); // would be refused if the number were stored, or stored without a drained queue
    const late = await openReader(2);
    await expect(late.check()).rejects.toThrow(refusal);
    const entry = { projectId: 1, customerId: 'jane' };
    for (const reader of [early, late]) {
      await waitFor(
        () =>
          reader.check().then(
            () => false,
            () => true,
          ),
        { description: 'the reader to notice' },
      );
      await expect(reader.admit(0, [entry])).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
    }
    await (await openQueue(1)).admit(0, [entry]);
  });

  test('cannot change while entries wait in a paused queue', async () => {
    const queue = await openQueue(1);
    await queue.enqueue(0, chunk);
    const { queues } = await openDashboard(1);
    await queues[0]?.pause();
    await expect(openQueue(2)).rejects.toThrow(refusal);
    expect(await queue.findPaused()).toEqual(['entries-0']);
    expect((await queue.readBacklog()).jobs.waiting).toBe(1);
    await queues[0]?.resume();
    expect(await queue.findPaused()).toEqual([]);
  });

  test('cannot change while a worker runs, and can change after it has stopped', async () => {
    const worker = await openWorker(1);
    worker.start();
    const queue = await openQueue(1);
    await queue.enqueue(0, chunk);
    const isEmpty = async () => Object.values((await worker.backlog()).jobs).every((count) => count === 0);
    await waitFor(isEmpty, { description: 'the chunk to be done' });
    await expect(openQueue(2)).rejects.toThrow(refusal);
    await worker.close();
    const other = await waitFor(() => openQueue(2).catch(() => undefined), {
      description: 'the server to see the worker gone',
    });
    await other.enqueue(1, chunk);
    await openWorker(2);
    await expect(openQueue(1)).rejects.toThrow('QUEUE_SHARDS is 1, but the queue has 2');
  });

  test('can be changed by an ingress and a worker that start together, whichever of them is first', async () => {
    await openQueue(2);
    const ofIngress = keep(await connectQueueBackend({ ...backend, shards: 1 }, 'producer', toOptions(1)));
    const { admission } = ofIngress;
    const found = await admission.setShards(1); // the ingress's first step
    // Between the ingress's two steps, the worker changes the number and starts.
    (await openWorker(1)).start();
    const queue = await openQueue(1);
    await waitFor(async () => (await queue.findIdle()).length === 0, { description: 'the worker to be seen' });
    const { setShards } = admission;
    const answers = [found];
    Object.assign(admission, {
      setShards: async (...numbers: Parameters<typeof setShards>) => answers.shift() ?? setShards(...numbers),
    });
    const check = await createShardCheck(ofIngress, 1, {
      onError: (error) => {
        throw error;
      },
    });
    expect([found, answers, check.differs()]).toEqual([2, [], false]);
  });

  test('is checked repeatedly: an ingress with another number becomes unready and rejects entries', async () => {
    const queue = await openQueue(1);
    const worker = await openWorker(1);
    await Promise.all([queue.check(), worker.check()]);
    const { admission } = keep(await connectQueueBackend({ ...backend, shards: 2 }, 'worker', toOptions(2)));
    await admission.setShards(2, 1);
    await expect(queue.check()).rejects.toThrow('QUEUE_SHARDS is 1, but the queue has 2');
    await expect(worker.check()).rejects.toThrow('QUEUE_SHARDS is 1, but the queue has 2');
    const unavailable = { code: 'QUEUE_UNAVAILABLE' };
    await expect(queue.admit(0, [{ projectId: 1, customerId: 'jane' }])).rejects.toMatchObject(unavailable);
    await expect(queue.requeue(0, chunk)).rejects.toMatchObject(unavailable);
    await admission.setShards(1, 2);
    await queue.admit(0, [{ projectId: 1, customerId: 'jane' }]);
    await Promise.all([queue.check(), worker.check()]);
  });

  test('is checked when an ingress reads the load, even if nothing calls its readiness check', async () => {
    const queue = await openQueue(1);
    await openQueue(2);
    await queue.load();
    await expect(queue.admit(0, [{ projectId: 1, customerId: 'jane' }])).rejects.toMatchObject({
      code: 'QUEUE_UNAVAILABLE',
    });
  });

  test('makes a read-only process fail its check if it differs, and a read-only process does not store it', async () => {
    const dashboard = await openDashboard(2);
    await dashboard.check();
    await openQueue(1);
    await expect(dashboard.check()).rejects.toThrow(refusal);
    await (await openDashboard(1)).check();
  });
});

test('a process that starts while the store does not answer in time checks the number of shards later', async () => {
  const backend = await createBackend(undefined);
  const options = { ...backend, signal: new AbortController().signal };
  const errors: string[] = [];
  const first = await createEntryQueue({ ...options, shards: 1, onError: () => {} });
  const blocking = new pg.Client({ connectionString: backend.databaseUrl });
  await blocking.connect();
  await blocking.query('BEGIN; LOCK TABLE admission.layout');
  const onError = ({ message }: Error) => errors.push(message);
  const queue = await createEntryQueue({ ...options, shards: 2, onError });
  expect(errors).toHaveLength(1);
  expect(await queue.check()).toMatch(/^number of shards could not be read: /);
  await blocking.query('ROLLBACK');
  await blocking.end();
  await expect(queue.check()).rejects.toThrow('QUEUE_SHARDS is 2, but the queue has 1');
  await expect(queue.admit(1, [{ projectId: 1, customerId: 'jane' }])).rejects.toMatchObject({
    code: 'QUEUE_UNAVAILABLE',
  });
  await Promise.all([first.close(), queue.close()]);
  await backend.drop();
});

test('another number of shards is rejected if the backlog cannot be read in time', async () => {
  const backend = await createBackend(undefined);
  const options = { ...backend, signal: new AbortController().signal, onError: () => {} };
  const queue = await createEntryQueue({ ...options, shards: 1 });
  const blocking = new pg.Client({ connectionString: backend.databaseUrl });
  await blocking.connect();
  await blocking.query('BEGIN; LOCK TABLE bullmq.job');
  // A worker, because its timeout is longer than a producer's.
  const worker = createEntryWorker({ ...options, shards: 2, ...IDLE_WORKER });
  await expect(worker).rejects.toThrow('QUEUE_SHARDS is 2, but the queue has 1');
  await blocking.end();
  await queue.close();
  await backend.drop();
});
