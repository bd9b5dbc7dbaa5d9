import { expect, test } from '@jest/globals';
import { Fault } from '@opm/contract';
import { assertWorked } from './assert-worked.js';

test('workers that come back after a moment, and a store that fails for one, are waited for', async () => {
  const looks = [
    () => Promise.reject(new Fault('QUEUE_UNAVAILABLE')),
    async () => ['entries-0', 'entries-1'],
    async () => ['entries-1'],
    async () => [],
  ];
  await assertWorked({ findIdle: () => (looks.shift() ?? fail)() }, 60_000);
  expect(looks).toEqual([]);
});

test('where nobody takes jobs, it is said of which queues', async () => {
  await expect(assertWorked({ findIdle: async () => ['entries-1'] }, 1)).rejects.toThrow(
    'no worker takes jobs from entries-1: set REDIS_URL, REDIS_PREFIX and QUEUE_SHARDS',
  );
});

function fail(): never {
  throw new Error('looked once more');
}
