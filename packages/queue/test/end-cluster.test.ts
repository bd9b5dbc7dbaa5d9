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
  const flags = ['--cluster-require-full-coverage', 'yes']; // the cluster is down if a slot has no master
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

/** Removes a slot, so that every node reports the cluster as down. */
async function takeSlotAway(): Promise<void> {
  await onAll((redis) => redis.cluster('DELSLOTS', 0));
  const isDown = async () =>
    (await onAll((redis) => redis.cluster('INFO'))).every((info) => String(info).includes('cluster_state:fail'));
  await waitFor(isDown, { description: 'the cluster to be down' });
}

const giveSlotBack = () => withRedis(cluster.nodes[0]?.url ?? '', (redis) => redis.cluster('ADDSLOTS', 0));

test('after a cluster connection has ended, calls fail at once, and it can be reopened', async () => {
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

test('connect() to a cluster that is down resolves when it is up again, or rejects when the connection ends', async () => {
  const [waiting, rejecting] = [await connect(), await connect()];
  await Promise.all([end(waiting), end(rejecting)]);
  await takeSlotAway();
  const outcomes: string[] = [];
  const note = (outcome: string) => () => void outcomes.push(outcome);
  const isReconnecting = (redis: Cluster) => new Promise((resolve) => void redis.once('reconnecting', resolve));
  const tried = Promise.all([waiting, rejecting].map(isReconnecting));
  waiting.connect().then(note('connected'), note('failed'));
  rejecting.connect().then(note('too early'), note('rejected'));
  await tried;
  expect(outcomes).toEqual([]);

  // If a node's connection ends late, ioredis returns to the status `close` until its next attempt.
  await waitFor(() => rejecting.status === 'close', { description: 'the late end of a connection' });
  rejecting.disconnect();
  await waitFor(() => outcomes[0] === 'rejected', { description: 'the rejection' });
  await giveSlotBack();
  await waitFor(() => outcomes[1] === 'connected', { description: 'the connection' });
  waiting.disconnect();
});

test('after a cluster connection has ended, nothing keeps the process alive, even during a slot refresh', async () => {
  const redis = await connect();
  const { refreshSlotsCache } = redis;
  redis.refreshSlotsCache = (callback) => {
    redis.refreshSlotsCache = refreshSlotsCache;
    redis.refreshSlotsCache(callback);
    redis.disconnect();
  };
  await waitFor(() => redis.status === 'end', { description: 'a slot refresh and the end' });
  // An open timer fails the test file.
});
