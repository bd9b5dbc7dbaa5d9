import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type LocalRedis, startLocalRedis } from '@opm/testkit';
import { connectRedis, waitUntilReady } from '../src/redis/connect-redis.js';
import type { RedisClient } from '../src/redis/ioredis-workarounds.js';

let directory: string;
let server: LocalRedis;
let redis: RedisClient;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-redis-'));
  server = await startLocalRedis({ directory, flags: [] });
  const onError = () => {};
  redis = connectRedis({ redisUrl: server.url, role: 'producer', minReplicas: 0, answerTimeoutMs: 10_000, onError });
  await waitUntilReady(redis);
});
afterAll(async () => {
  redis?.disconnect();
  await server?.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

const countReads = async () => Number(/total_reads_processed:(\d+)/.exec(await redis.info('stats'))?.[1]);

test('the commands of one turn of the event loop reach Redis in at most two pieces', async () => {
  const before = await countReads();
  const send = (i: number) => redis.echo(String(i));
  const sent = Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? send(i) : Promise.resolve(i).then(send)));
  expect(await Promise.all(sent)).toEqual(Array.from({ length: 100 }, (_, i) => String(i)));
  expect((await countReads()) - before).toBeLessThanOrEqual(3); // the commands, and the second count itself
});
