import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { BACKENDS, type Backend, waitFor } from '@opm/testkit';
import { createEntryQueue, createEntryWorker } from '../src/index.js';
import { IDLE_WORKER } from './idle-worker.js';

const chunk = { projectId: 1, entries: [{ customerId: 'jane', version: 1, fields: { email: 'a@example.com' } }] };

describe.each(BACKENDS)('the number of shards, with the queue on %s,', (_, createBackend) => {
  let backend: Backend;
  const opened: { close(): Promise<void> }[] = [];
  beforeEach(async () => {
    backend = await createBackend();
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
  const refusal = 'QUEUE_SHARDS is 2, but the queue has 1';

  test('is the first one, as long as anything waits', async () => {
    const queue = await openQueue(1);
    await queue.enqueue(0, chunk);
    await expect(openQueue(2)).rejects.toThrow(refusal);
    await expect(openWorker(2)).rejects.toThrow(refusal);
    await openQueue(1);
  });

  test('is the first one as long as a worker runs, and may be another one when it has ended', async () => {
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
});
