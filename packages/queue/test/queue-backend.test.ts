import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { type Backend, createBackend, startProxy, startRedisCluster, type TcpProxy, waitFor } from '@opm/testkit';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { Role } from '../src/queue-store.js';

type Place = { backend: Backend; proxy: TcpProxy; options: { databaseUrl: string; redisUrl: string | undefined } };

async function createPlace(store: string): Promise<Place> {
  const isRedis = store === 'Redis';
  const backend = await createBackend(isRedis ? process.env.OPM_TEST_REDIS_URL : undefined);
  const proxy = await startProxy(backend.redisUrl ?? backend.databaseUrl);
  const options = isRedis
    ? { databaseUrl: backend.databaseUrl, redisUrl: proxy.url }
    : { databaseUrl: proxy.url, redisUrl: undefined };
  return { backend, proxy, options };
}

const ADDRESS = { name: 'entries-0', shard: { index: 0, of: 1 } };

test.each<[string, Role]>([
  ['Redis', 'producer'],
  ['Redis', 'worker'],
  ['PostgreSQL', 'producer'],
  ['PostgreSQL', 'worker'],
])('a queue and a worker opened while %s is down work after it is back (%s)', async (store, role) => {
  const { backend, proxy, options } = await createPlace(store);
  const errors: Error[] = [];
  const config = { ...backend, ...options, shards: 1 };
  const signal = new AbortController().signal;
  const connected = await connectQueueBackend(config, role, { signal, onError: (error) => errors.push(error) });
  await proxy.cut();
  const opening = Promise.all([
    connected.openQueue(ADDRESS),
    connected.openWorker(ADDRESS, async () => {}, { autorun: false }),
  ]);
  await waitFor(() => errors.length > 2, { description: 'attempts to fail' });
  await proxy.restore();
  const [queue] = await opening;
  await queue.add('chunk', {});
  expect(await queue.getJobCounts('waiting')).toEqual({ waiting: 1 });
  await connected.close();
  await proxy.close();
  await backend.drop();
});

test.each(['Redis', 'PostgreSQL'])('waiting for %s can be aborted', async (store) => {
  const { backend, proxy, options } = await createPlace(store);
  const config = { ...backend, ...options, shards: 1 };
  const abort = new AbortController();
  const errors: Error[] = [];
  const connected = await connectQueueBackend(config, 'worker', {
    signal: abort.signal,
    onError: (error) => errors.push(error),
  });
  await proxy.cut();
  const opening = expect(connected.openQueue(ADDRESS)).rejects.toThrow('aborted by the test');
  await waitFor(() => errors.length > 0, { description: 'an attempt to fail' });
  abort.abort(new Error('aborted by the test'));
  await opening;
  await proxy.close();
  await backend.drop();
});

test('a single cluster node as REDIS_URL is rejected; the same URL twice is accepted as a cluster', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'opm-single-'));
  const { nodes, stop } = await startRedisCluster({
    ...{ directory, masters: 3, replicasPerMaster: 0 },
    flags: ['--appendonly', 'yes'],
  });
  const url = nodes[0]?.url ?? '';
  const check = async (redisUrl: string) => {
    const config = { databaseUrl: 'postgresql://nowhere', redisUrl, prefix: 'opm', shards: 1 };
    const signal = new AbortController().signal;
    const backend = await connectQueueBackend(config, 'producer', { signal, onError: () => {} });
    return backend.check().finally(backend.close);
  };
  try {
    await expect(check(url)).rejects.toThrow('REDIS_URL names a single node of a Redis Cluster');
    await expect(check(`${url},${url}`)).resolves.toBeUndefined();
  } finally {
    await stop();
    await rm(directory, { recursive: true, maxRetries: 5 });
  }
});
