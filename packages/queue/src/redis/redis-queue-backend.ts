import { Queue, withBackend } from 'bullmq';
import { withBackOff } from '../back-off.js';
import { toMaxKeptBytes } from '../idempotency.js';
import type { Store } from '../queue-backend.js';
import type { QueueAddress } from '../shards.js';
import { connectRedis, mastersOf, type RedisConnection, waitUntilReady } from './connect-redis.js';
import { createWorkerBackend } from './create-worker-backend.js';
import { toHashTag } from './hash-tag.js';
import { createHighWaterMark } from './high-water-mark.js';
import { createRedisAdmission } from './redis-admission.js';
import { createShortenDeadlines, readClockSkews } from './redis-clock.js';
import { checkRedis, readMemory } from './redis-health.js';
import { createRedisIdempotency } from './redis-idempotency.js';
import { createRedisTokenBuckets } from './redis-token-buckets.js';

const { Worker } = withBackend(withBackOff(createWorkerBackend));

type RedisBackendOptions = RedisConnection & { databaseUrl: string; prefix: string; shards: number };

export function createRedisQueueBackend(options: RedisBackendOptions): Store {
  const { databaseUrl, prefix, shards, ...connection } = options;
  const redis = connectRedis(connection);
  const mark = createHighWaterMark({ databaseUrl, ...connection });
  const shortenDeadlines = createShortenDeadlines(redis);
  const { onError } = connection;
  // On Redis Cluster all keys with the same hash tag live on one node.
  const keyspaces = Array.from({ length: shards }, (_, shard) => toHashTag(prefix, shard, shards));
  const keyspaceOf = (shard: number) => keyspaces[shard] as string;
  let memoryLimit = 0; // as it was read last
  function keyspaceOfQueue({ name, shard }: QueueAddress): string {
    if (!shard) return `{${prefix}-${name}}`;
    return shard.of === shards ? keyspaceOf(shard.index) : toHashTag(prefix, shard.index, shard.of);
  }

  return {
    admission: createRedisAdmission(redis, { keyspaceOf, common: `{${prefix}-0}`, mark }),
    idempotency: createRedisIdempotency(redis, {
      keyspaceOf,
      maxBytes: () => Math.ceil(toMaxKeptBytes(memoryLimit) / shards),
    }),
    buckets: createRedisTokenBuckets(redis, { shards, keyspaceOf, maxWaitMs: connection.answerTimeoutMs / 4 }),
    createQueue(address, queueOptions) {
      const queue = new Queue(address.name, { ...queueOptions, connection: redis, prefix: keyspaceOfQueue(address) });
      return queue.on('error', onError);
    },
    createWorker(address, processor, workerOptions) {
      const options = { ...workerOptions, connection: redis, prefix: keyspaceOfQueue(address) };
      return new Worker(address.name, processor, options).on('error', onError);
    },
    async ping() {
      await waitUntilReady(redis);
      await Promise.all(mastersOf(redis).map((node) => node.ping()));
    },
    check: () => checkRedis(redis),
    readClockSkews: () => readClockSkews(redis),
    shortenDeadlines: (address, limits) => shortenDeadlines(`${keyspaceOfQueue(address)}:${address.name}`, limits),
    async readClock() {
      const times = await Promise.all(mastersOf(redis).map((node) => node.time()));
      return new Date(Math.min(...times.map(([seconds, micros]) => Number(seconds) * 1_000 + Number(micros) / 1_000)));
    },
    async memoryUse() {
      const { use, limit } = await readMemory(redis);
      memoryLimit = limit;
      return use;
    },
    async close() {
      redis.disconnect();
      await mark.close();
    },
  };
}
