import { untilAborted, withTimeout } from '@opm/core';
import type { Queue, Worker } from 'bullmq';
import pRetry from 'p-retry';
import { toClockWarning } from './clock.js';
import { createPostgresStore } from './postgres/postgres-store.js';
import type { QueueBackend, Role } from './queue-store.js';
import { createRedisStore } from './redis/redis-store.js';

export type QueueConfig = {
  /** PostgreSQL: the rows, and without `redisUrl` the queue too. */
  databaseUrl: string;
  redisUrl?: string | undefined;
  /** Redis replicas that must confirm a producer's write. Default 0. */
  minReplicas?: number;
  /** Timeout of a producer's calls, in ms. Default 1,000. */
  answerTimeoutMs?: number;
  /** Prefix of all keys on Redis. PostgreSQL needs none: there, the database is the namespace. */
  prefix: string;
  /** Number of shards, each with a queue `entries-0` to `entries-(n-1)`. */
  shards: number;
};

/** Converts environment variables to the queue's configuration. */
export function toQueueConfig(env: {
  DATABASE_URL: string;
  REDIS_URL: string | undefined;
  REDIS_MIN_REPLICAS: number;
  ANSWER_TIMEOUT_MS: number;
  REDIS_PREFIX: string;
  QUEUE_SHARDS: number;
}): QueueConfig {
  return {
    databaseUrl: env.DATABASE_URL,
    redisUrl: env.REDIS_URL,
    minReplicas: env.REDIS_MIN_REPLICAS,
    answerTimeoutMs: env.ANSWER_TIMEOUT_MS,
    prefix: env.REDIS_PREFIX,
    shards: env.QUEUE_SHARDS,
  };
}

const OPEN_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 3_000;

/**
 * Connects to the store and waits until it answers. Later, connections recover by themselves.
 * @param onError called for errors that need no action, such as lost connections
 * @throws the reason of the signal's abort
 */
export async function connectQueueBackend(
  config: QueueConfig,
  role: Role,
  { signal, onError }: { signal: AbortSignal; onError: (error: Error) => void },
): Promise<QueueBackend> {
  const { databaseUrl, redisUrl, minReplicas = 0, answerTimeoutMs = 1_000, prefix, shards } = config;
  const { createQueue, createWorker, ping, ...store } =
    redisUrl === undefined
      ? createPostgresStore({ databaseUrl, shards, role, answerTimeoutMs, onError })
      : createRedisStore({ databaseUrl, redisUrl, minReplicas, answerTimeoutMs, prefix, shards, role, onError });

  const opened = new Set<Queue | Worker>();
  let closed: Promise<void> | undefined;

  function close(): Promise<void> {
    closed ??= closeAll();
    return closed;
  }

  /** The timeouts keep a store that hangs from blocking the exit of the process. */
  async function closeAll(): Promise<void> {
    await withTimeout(Promise.all([...opened].map((it) => it.close(true))), CLOSE_TIMEOUT_MS).catch(onError);
    await withTimeout(store.close(), CLOSE_TIMEOUT_MS).catch(onError);
  }

  async function retry<T>(attempt: () => Promise<T>): Promise<T> {
    try {
      const trying = pRetry(attempt, {
        retries: Number.POSITIVE_INFINITY,
        minTimeout: 50,
        maxTimeout: 2_000,
        signal,
        onFailedAttempt: ({ error }) => onError(error),
      });
      return await untilAborted(trying, signal); // an attempt may hang
    } catch (error) {
      await close();
      throw error;
    }
  }

  /** BullMQ never retries a first connection that failed, so each attempt creates a new queue or worker. */
  function open<T extends Queue | Worker>(create: () => T): Promise<T> {
    return retry(async () => {
      const candidate = create();
      try {
        const timeout = AbortSignal.any([signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)]);
        await untilAborted(candidate.waitUntilReady(), timeout);
      } catch (cause) {
        await candidate.close(true).catch(onError);
        throw new Error(`${candidate.name} could not be opened: ${(cause as Error).message}`, { cause });
      }
      opened.add(candidate);
      return candidate;
    });
  }

  await retry(ping);
  return {
    ...store,
    async check() {
      const [warning, skews] = await Promise.all([store.check(), store.readClockSkews().catch(() => [])]);
      return [warning, toClockWarning(skews)].filter(Boolean).join('; ') || undefined;
    },
    openQueue: (address, options) => open(() => createQueue(address, options)),
    openWorker: (address, processor, options) => open(() => createWorker(address, processor, options)),
    retry,
    close,
  };
}
