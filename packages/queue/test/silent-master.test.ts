import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type ClusterNode, type RedisCluster, startRedisCluster, waitFor } from '@opm/testkit';
import { createEntryQueue, createEntryWorker, openDashboardQueues, toHashTag } from '../src/index.js';
import { IDLE_WORKER } from './idle-worker.js';

const SHARDS = 3;
/** Above the 2 s after which a worker considers a store down. */
const DECIDED_MS = 3_000;

let directory: string;
let cluster: RedisCluster;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-silent-'));
  // No failover.
  cluster = await startRedisCluster({ directory, masters: 3, replicasPerMaster: 0, nodeTimeoutMs: 60_000 });
});
afterAll(async () => {
  await cluster?.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

test('while a master hangs, a closing worker waits for the jobs of the other shards, and reports them as done', async () => {
  const place = { databaseUrl: '', redisUrl: cluster.url, prefix: 'opm', shards: SHARDS };
  const options = { ...place, signal: new AbortController().signal, onError: () => {} };
  const queue = await createEntryQueue(options);
  const begun = new Set<number>();
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const worker = await createEntryWorker({
    ...options,
    ...IDLE_WORKER,
    lockMs: 60_000,
    process: async (_chunk, { shard }) => {
      begun.add(shard);
      await released;
    },
  });
  const entries = [{ projectId: 1, customerId: 'a', version: 1, fields: { phone: '+1' } }];
  for (let shard = 0; shard < SHARDS; shard++) await queue.enqueue(shard, { entries });
  worker.start();
  await waitFor(() => begun.size === SHARDS, { description: 'the jobs' });

  const silent = (await cluster.findMaster(toHashTag('opm', 0, SHARDS))) as ClusterNode;
  silent.signal('SIGSTOP');
  const since = performance.now();
  const closing = worker.close();
  await waitFor(() => performance.now() - since > DECIDED_MS, { description: 'the silence to be noticed' });
  release();
  await closing;
  silent.signal('SIGCONT');

  const { queues, close } = await openDashboardQueues(options);
  const shards = queues.filter(({ name }) => name.startsWith('entries-'));
  const active = await Promise.all(shards.map((one) => one.getJobCounts('active')));
  expect(active.slice(1)).toEqual([{ active: 0 }, { active: 0 }]);
  await close();
  await queue.close();
});
