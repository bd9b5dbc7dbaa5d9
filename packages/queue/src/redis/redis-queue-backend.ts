import { Queue, withBackend } from 'bullmq';
import type { Store } from '../queue-backend.js';
import { connectRedis, mastersOf, type RedisConnection, waitUntilReady } from './connect-redis.js';
import { createWorkerBackend } from './create-worker-backend.js';
import { createRedisAdmission } from './redis-admission.js';
import { checkRedis, readMemoryUse } from './redis-health.js';
import { createRedisIdempotency } from './redis-idempotency.js';
import { createRedisTokenBuckets } from './redis-token-buckets.js';

const { Worker } = withBackend(createWorkerBackend);

export function createRedisQueueBackend({ prefix, ...connection }: RedisConnection & { prefix: string }): Store {
  const redis = connectRedis(connection);
  const { onError } = connection;
  // The braces are a hash tag: on Redis Cluster all keys of a shard live on one node.
  const keyspace = (slot: string | number) => `{${prefix}-${slot}}`;

  return {
    admission: createRedisAdmission(redis, keyspace),
    idempotency: createRedisIdempotency(redis, keyspace),
    buckets: createRedisTokenBuckets(redis, (projectId) => keyspace(`limit-${projectId}`)),
    createQueue({ name, slot }, queueOptions) {
      const queue = new Queue(name, { ...queueOptions, connection: redis, prefix: keyspace(slot) });
      return queue.on('error', onError);
    },
    createWorker({ name, slot }, processor, workerOptions) {
      const worker = new Worker(name, processor, { ...workerOptions, connection: redis, prefix: keyspace(slot) });
      return worker.on('error', onError);
    },
    async ping() {
      await waitUntilReady(redis);
      await Promise.all(mastersOf(redis).map((node) => node.ping()));
    },
    check: () => checkRedis(redis),
    memoryUse: () => readMemoryUse(redis),
    close: async () => redis.disconnect(),
  };
}
