import { expect, test } from '@jest/globals';
import { Fault } from '@opm/contract';
import { assertHasWorkers } from './with-queue.js';

test('waits for workers to reconnect, and retries while the queue store fails', async () => {
  const results = [
    () => Promise.reject(new Fault('QUEUE_UNAVAILABLE')),
    async () => ['entries-0', 'entries-1'],
    async () => ['entries-1'],
    async () => [],
  ];
  await assertHasWorkers({ findIdle: () => (results.shift() ?? fail)() }, 60_000);
  expect(results).toEqual([]);
});

test('names the queues that have no worker', async () => {
  await expect(assertHasWorkers({ findIdle: async () => ['entries-1'] }, 1)).rejects.toMatchObject({
    message: expect.stringMatching(
      /^no worker takes jobs from entries-1: start a worker, set REDIS_URL, REDIS_PREFIX and QUEUE_SHARDS/,
    ),
    kind: 'unavailable',
  });
});

function fail(): never {
  throw new Error('findIdle was called too often');
}
