import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type RedisCluster, startRedisCluster, waitFor, withRedis } from '@opm/testkit';
import { Cluster, type Redis } from 'ioredis';
import { connectRedis, mastersOf } from '../src/redis/connect-redis.js';

let directory: string;
let cluster: RedisCluster;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-end-'));
  const flags = ['--cluster-require-full-coverage', 'yes']; // it is down where a slot is nobody's
  cluster = await startRedisCluster({ directory, masters: 3, replicasPerMaster: 0, flags });
});
afterAll(async () => {
  await cluster?.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

async function connect(): Promise<Cluster> {
  const redis = connectRedis({
    redisUrl: cluster.url,
    role: 'worker',
    minReplicas: 0,
    answerTimeoutMs: 1_000,
    onError: () => {},
  }) as Cluster;
  expect(redis).toBeInstanceOf(Cluster);
  await waitFor(() => redis.status === 'ready', { description: 'the cluster' });
  return redis;
}

async function end(redis: Cluster): Promise<void> {
  redis.disconnect();
  await waitFor(() => redis.status === 'end', { description: 'the end' });
}

const onAll = (use: (redis: Redis) => Promise<unknown>) =>
  Promise.all(cluster.nodes.map(({ url }) => withRedis(url, use)));

/** Every node says that the cluster is down, for a slot is nobody's. */
async function takeSlotAway(): Promise<void> {
  await onAll((redis) => redis.cluster('DELSLOTS', 0));
  const isDown = async () =>
    (await onAll((redis) => redis.cluster('INFO'))).every((info) => String(info).includes('cluster_state:fail'));
  await waitFor(isDown, { description: 'the cluster to be down' });
}

const giveSlotBack = () => withRedis(cluster.nodes[0]?.url ?? '', (redis) => redis.cluster('ADDSLOTS', 0));

test('when a connection to a cluster has ended, calls fail at once, and it can be opened again', async () => {
  const redis = await connect();
  const nodes = mastersOf(redis);
  await Promise.all(nodes.map((node) => node.ping()));
  expect(nodes).toHaveLength(3);

  redis.disconnect();
  await waitFor(() => nodes.every(({ status }) => status === 'end'), { description: 'all connections to end' });
  expect(redis.status).toBe('end');
  await expect(redis.get('jane')).rejects.toThrow('Connection is closed');

  await redis.connect();
  expect(await redis.get('jane')).toBeNull();
  redis.disconnect();
});

test('who opens a connection to a cluster that is down has it when it is up again, or is told of the end', async () => {
  const [waiting, given] = [await connect(), await connect()];
  await Promise.all([end(waiting), end(given)]);
  await takeSlotAway();
  const outcomes: string[] = [];
  const note = (outcome: string) => () => void outcomes.push(outcome);
  const isTriedAgain = (redis: Cluster) => new Promise((resolve) => void redis.once('reconnecting', resolve));
  const tried = Promise.all([waiting, given].map(isTriedAgain));
  waiting.connect().then(note('connected'), note('failed'));
  given.connect().then(note('too early'), note('told'));
  await tried;
  expect(outcomes).toEqual([]);

  // A connection that ends late takes ioredis back to "close", where it stays until its next attempt.
  await waitFor(() => given.status === 'close', { description: 'a late end of a connection' });
  given.disconnect();
  await waitFor(() => outcomes[0] === 'told', { description: 'the end to be told' });
  await giveSlotBack();
  await waitFor(() => outcomes[1] === 'connected', { description: 'the connection' });
  waiting.disconnect();
});

test('when a connection to a cluster has ended, nothing keeps the process alive, though the map was being looked at', async () => {
  const redis = await connect();
  const { refreshSlotsCache } = redis;
  redis.refreshSlotsCache = (callback) => {
    redis.refreshSlotsCache = refreshSlotsCache;
    redis.refreshSlotsCache(callback);
    redis.disconnect();
  };
  await waitFor(() => redis.status === 'end', { description: 'a look at the map, and the end' });
  // A timer that is left open fails the file.
});
