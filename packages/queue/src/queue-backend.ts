import { withTimeout } from '@opm/core';
import type { Queue, QueueOptions, Worker, WorkerOptions } from 'bullmq';
import pRetry from 'p-retry';
import type { Admission } from './admission.js';
import { type DeadlineLimits, toClockWord } from './clock-skew.js';
import type { Idempotency } from './idempotency.js';
import { untilAborted } from './in-time.js';
import { createPostgresQueueBackend } from './postgres/postgres-queue-backend.js';
import { createRedisQueueBackend } from './redis/redis-queue-backend.js';
import type { QueueAddress } from './shards.js';
import type { TokenBuckets } from './token-buckets.js';

export type QueueConfig = {
  /** Where the rows are, and, without Redis, the queue. */
  databaseUrl: string;
  redisUrl?: string | undefined;
  /** Replicas of Redis that must have what a producer writes before it is answered; 0 unless given. */
  minReplicas?: number;
  /** How long a producer's call may take, in ms; 1,000 unless given. */
  answerTimeoutMs?: number;
  /** Namespace of all keys on Redis; on PostgreSQL the database is the namespace. */
  prefix: string;
  /** Number of queues `entries-0 … n-1`. */
  shards: number;
};

/** The queue's part of a process's environment. */
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

/** A producer fails fast, because a partner waits; a worker waits, because an outage ends. */
export type Role = 'producer' | 'worker' | 'dashboard';

/** What the two stores have in common. Nothing outside this package knows which one it is. */
export type QueueBackend = {
  admission: Admission;
  idempotency: Idempotency;
  buckets: TokenBuckets;
  /** Resolves when BullMQ has its connection. @throws the reason of the signal's abort */
  openQueue(address: QueueAddress, options?: Partial<QueueOptions>): Promise<Queue>;
  openWorker(address: QueueAddress, processor: Worker['processFn'], options: WorkerOptionsGiven): Promise<Worker>;
  /** Tries until it succeeds; `onError` hears of what fails. @throws the reason of the signal's abort */
  persist<T>(attempt: () => Promise<T>): Promise<T>;
  /** Resolves when the store answers. */
  ping(): Promise<void>;
  /**
   * Resolves when the store answers and is set up to keep what it is given, with a word where a part of it does not answer, or
   * its clock is more than a minute from this process's.
   * @throws Error that says what to change
   */
  check(): Promise<string | void>;
  /** How far the clock of each server that answers is ahead of this process's, in ms. */
  readClockSkews(): Promise<number[]>;
  /** Brings the deadlines of a queue's jobs nearer that are further away than they can be. */
  shortenDeadlines(address: QueueAddress, limits: DeadlineLimits): Promise<void>;
  /** What the store's clock says, that versions follow; of a cluster's masters, the one that is furthest behind. */
  readClock(): Promise<Date>;
  /** The part of the memory that the store may use which is in use, 0 to 1; 0 where it has no limit. */
  memoryUse(): Promise<number>;
  /** With all queues and workers that were opened. Safe to call twice. */
  close(): Promise<void>;
};

type WorkerOptionsGiven = Omit<WorkerOptions, 'connection' | 'prefix'>;

/** A store as its own file makes it: queues and workers of it may never get a connection. */
export type Store = Omit<QueueBackend, 'openQueue' | 'openWorker' | 'persist'> & {
  createQueue(address: QueueAddress, options?: Partial<QueueOptions>): Queue;
  createWorker(address: QueueAddress, processor: Worker['processFn'], options: WorkerOptionsGiven): Worker;
};

const OPEN_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 3_000;

/**
 * Opens the store and waits until it answers; from then on what is opened recovers by itself.
 * @param onError hears of lost connections and the like, which mend themselves
 * @throws the reason of the signal's abort
 */
export async function connectQueueBackend(
  config: QueueConfig,
  role: Role,
  { signal, onError }: { signal: AbortSignal; onError: (error: Error) => void },
): Promise<QueueBackend> {
  const { databaseUrl, redisUrl, minReplicas = 0, answerTimeoutMs = 1_000, prefix, shards } = config;
  const { createQueue, createWorker, ...store } =
    redisUrl === undefined
      ? createPostgresQueueBackend({ databaseUrl, shards, role, answerTimeoutMs, onError })
      : createRedisQueueBackend({ databaseUrl, redisUrl, minReplicas, answerTimeoutMs, prefix, shards, role, onError });

  const opened = new Set<Queue | Worker>();
  let closed: Promise<void> | undefined;

  function close(): Promise<void> {
    closed ??= closeAll();
    return closed;
  }

  /** A call that nobody waits for any more, to a store that hangs, must not keep the process. */
  async function closeAll(): Promise<void> {
    await withTimeout(Promise.all([...opened].map((it) => it.close(true))), CLOSE_TIMEOUT_MS).catch(onError);
    await withTimeout(store.close(), CLOSE_TIMEOUT_MS).catch(onError);
  }

  async function persist<T>(attempt: () => Promise<T>): Promise<T> {
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

  /** BullMQ remembers a first connection that failed and never tries again, so one that failed is thrown away. */
  function open<T extends Queue | Worker>(create: () => T): Promise<T> {
    return persist(async () => {
      const candidate = create();
      try {
        const tooLate = AbortSignal.any([signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)]);
        await untilAborted(candidate.waitUntilReady(), tooLate);
      } catch (cause) {
        await candidate.close(true).catch(onError);
        throw new Error(`${candidate.name} could not be opened: ${(cause as Error).message}`, { cause });
      }
      opened.add(candidate);
      return candidate;
    });
  }

  await persist(store.ping);
  return {
    ...store,
    async check() {
      const [word, skews] = await Promise.all([store.check(), store.readClockSkews().catch(() => [])]);
      return [word, toClockWord(skews)].filter(Boolean).join('; ') || undefined;
    },
    openQueue: (address, options) => open(() => createQueue(address, options)),
    openWorker: (address, processor, options) => open(() => createWorker(address, processor, options)),
    persist,
    close,
  };
}
