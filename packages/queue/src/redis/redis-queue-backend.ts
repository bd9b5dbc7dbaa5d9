import { once } from 'node:events';
import { Queue, Worker } from 'bullmq';
import { Redis, type RedisOptions } from 'ioredis';
import type { QueueBackend, Role } from '../queue-backend.js';
import { createRedisAdmission } from './redis-admission.js';

/** A connection that was lost without a word looks open for ever: `socketTimeout` ends one that owes an answer for that long. */
const CONNECTION: Record<Role, RedisOptions> = {
  producer: {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: 1_000,
    commandTimeout: 1_000,
    socketTimeout: 1_500,
  },
  // BullMQ waits for jobs with calls that take 10 s at most.
  worker: { maxRetriesPerRequest: null, socketTimeout: 30_000 },
  dashboard: { maxRetriesPerRequest: 1, commandTimeout: 10_000, socketTimeout: 10_000 },
};

export function createRedisQueueBackend(options: {
  redisUrl: string;
  prefix: string;
  role: Role;
  onError: (error: Error) => void;
}): QueueBackend {
  const { redisUrl, prefix, role, onError } = options;
  const redis = new Redis(redisUrl, {
    ...CONNECTION[role],
    retryStrategy: (attempt) => Math.min(50 * 2 ** attempt, 2_000) * (0.5 + Math.random() / 2),
  });
  redis.on('error', onError);
  // The braces are a hash tag: on Redis Cluster all keys of a shard live on one node.
  const keyspace = (slot: string | number) => `{${prefix}-${slot}}`;

  return {
    admission: createRedisAdmission(redis, keyspace),
    createQueue({ name, slot }, queueOptions) {
      const queue = new Queue(name, { ...queueOptions, connection: redis, prefix: keyspace(slot) });
      return queue.on('error', onError);
    },
    createWorker({ name, slot }, processor, workerOptions) {
      const worker = new Worker(name, processor, { ...workerOptions, connection: redis, prefix: keyspace(slot) });
      return worker.on('error', onError);
    },
    async ping() {
      // Rejects with the reason when the connection fails instead.
      if (redis.status !== 'ready') await once(redis, 'ready', { signal: AbortSignal.timeout(2_000) });
      await redis.ping();
    },
    check: () => checkRedis(redis),
    memoryUse: () => readMemoryUse(redis),
    close: async () => redis.disconnect(),
  };
}

async function readMemoryUse(redis: Redis): Promise<number> {
  const memory = await readMemory(redis);
  const limit = Number(memory('maxmemory') ?? 0);
  return limit === 0 ? 0 : Number(memory('used_memory')) / limit;
}

async function checkRedis(redis: Redis): Promise<void> {
  if (redis.status !== 'ready') throw new Error(`Redis is not connected (${redis.status})`);
  const memory = await readMemory(redis);
  const policy = memory('maxmemory_policy');
  if (policy !== undefined && policy !== 'noeviction') {
    throw new Error(`Redis must have maxmemory-policy noeviction, not ${policy}: it may drop acknowledged entries`);
  }
}

/** What Redis says of its memory, by name; undefined for what it leaves out, as some hosted ones do. */
async function readMemory(redis: Redis): Promise<(name: string) => string | undefined> {
  const info = await redis.info('memory');
  return (name) => new RegExp(`^${name}:(\\S+)`, 'm').exec(info)?.[1];
}
