import type { Queue, QueueOptions, Worker, WorkerOptions } from 'bullmq';
import pRetry from 'p-retry';
import type { Admission } from './admission.js';
import { createPostgresQueueBackend } from './postgres/postgres-queue-backend.js';
import { createRedisQueueBackend } from './redis/redis-queue-backend.js';
import type { QueueAddress } from './shards.js';

export type QueueConfig = {
  /** Where the queue lives when there is no Redis. */
  databaseUrl: string;
  redisUrl?: string | undefined;
  /** Namespace of all keys on Redis; on PostgreSQL the database is the namespace. */
  prefix: string;
  /** Number of queues `entries-0 … n-1`. */
  shards: number;
};

/** The queue's part of a process's environment. */
export function toQueueConfig(env: {
  DATABASE_URL: string;
  REDIS_URL: string | undefined;
  REDIS_PREFIX: string;
  QUEUE_SHARDS: number;
}): QueueConfig {
  return {
    databaseUrl: env.DATABASE_URL,
    redisUrl: env.REDIS_URL,
    prefix: env.REDIS_PREFIX,
    shards: env.QUEUE_SHARDS,
  };
}

/** A producer fails fast, because a partner waits; a worker waits, because an outage ends. */
export type Role = 'producer' | 'worker' | 'dashboard';

/** What the two stores have in common. Nothing outside this package knows which one it is. */
export type QueueBackend = {
  admission: Admission;
  createQueue(address: QueueAddress, options?: Partial<QueueOptions>): Queue;
  createWorker(address: QueueAddress, processor: Worker['processFn'], options: Partial<WorkerOptions>): Worker;
  /** Resolves when the store answers. */
  ping(): Promise<void>;
  /** Resolves when the store answers and is set up to keep what it is given. @throws Error that says what to change */
  check(): Promise<void>;
  /** The part of the memory that the store may use which is in use, 0 to 1; 0 where it has no limit. */
  memoryUse(): Promise<number>;
  close(): Promise<void>;
};

/**
 * Opens the store and waits until it answers: BullMQ remembers a first connection that failed and never tries again.
 * @param onError hears of lost connections and the like, which mend themselves
 * @throws the reason of the signal's abort
 */
export async function connectQueueBackend(
  config: QueueConfig,
  role: Role,
  { signal, onError }: { signal: AbortSignal; onError: (error: Error) => void },
): Promise<QueueBackend> {
  const { databaseUrl, redisUrl, prefix } = config;
  const backend =
    redisUrl === undefined
      ? createPostgresQueueBackend({ databaseUrl, role, onError })
      : createRedisQueueBackend({ redisUrl, prefix, role, onError });
  try {
    await pRetry(() => backend.ping(), {
      retries: Number.POSITIVE_INFINITY,
      minTimeout: 50,
      maxTimeout: 2_000,
      signal,
      onFailedAttempt: ({ error }) => onError(error),
    });
  } catch (error) {
    await backend.close();
    throw error;
  }
  return backend;
}
