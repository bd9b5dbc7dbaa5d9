import type { Queue, QueueOptions, Worker, WorkerOptions } from 'bullmq';
import type { Admission } from './admission.js';
import type { Idempotency } from './idempotency.js';
import type { TokenBuckets } from './token-buckets.js';

/** A producer fails fast, because a partner waits for it. A worker waits until an outage ends. */
export type Role = 'producer' | 'worker' | 'dashboard';

/** A BullMQ queue: the queue of one shard (`of` is the number of shards), or a queue without a shard. */
export type QueueAddress = { name: string; shard?: { index: number; of: number } };

/** The entry queue of each shard. */
export function toAddresses(shards: number): QueueAddress[] {
  return Array.from({ length: shards }, (_, index) => ({ name: `entries-${index}`, shard: { index, of: shards } }));
}

/** The maximum time until each kind of deadline, in ms. */
export type DeadlineLimits = { lockMs: number; stalledMs: number; delayMs: number };

/** The interface of both stores, Redis and PostgreSQL. Only this package knows which one is in use. */
export type QueueBackend = {
  admission: Admission;
  idempotency: Idempotency;
  buckets: TokenBuckets;
  /** Resolves when BullMQ is connected. @throws the reason of the signal's abort */
  openQueue(address: QueueAddress, options?: Partial<QueueOptions>): Promise<Queue>;
  openWorker(address: QueueAddress, processor: Worker['processFn'], options: WorkerOptionsGiven): Promise<Worker>;
  /** Retries until an attempt succeeds. Passes each error to `onError`. @throws the reason of the signal's abort */
  retry<T>(attempt: () => Promise<T>): Promise<T>;
  /**
   * Checks that the store answers and its settings keep acknowledged entries. Resolves to a warning if a part of the
   * store does not answer, if a Redis has no append-only file, or if its clock differs from this process's by
   * more than a minute.
   * @throws Error that says what to change
   */
  check(): Promise<string | void>;
  /** How far the clock of each server that answers is ahead of this process's, in ms. */
  readClockSkews(): Promise<number[]>;
  /** Shortens the deadlines of a queue's jobs that are later than `limits` allow. */
  shortenDeadlines(address: QueueAddress, limits: DeadlineLimits): Promise<void>;
  /**
   * When the oldest unfinished job was added, in ms since 1970. Looks at the first job of each state and priority; a
   * job that returns from a delay may wait behind newer ones.
   */
  findOldest(queue: Queue): Promise<number | undefined>;
  /** Time of the store's clock, which versions follow. In a cluster, of the master whose clock is furthest behind. */
  readClock(): Promise<Date>;
  /** Used fraction of the store's memory limit, 0 to 1; 0 if it has no limit. */
  memoryUse(): Promise<number>;
  /** Closes the store with all its queues and workers. Safe to call twice. */
  close(): Promise<void>;
};

type WorkerOptionsGiven = Omit<WorkerOptions, 'connection' | 'prefix'>;

/** A store as its adapter creates it. Its new queues and workers are not connected yet, and may never be. */
export type QueueStore = Omit<QueueBackend, 'openQueue' | 'openWorker' | 'retry'> & {
  /** Resolves if the store answers. */
  ping(): Promise<void>;
  createQueue(address: QueueAddress, options?: Partial<QueueOptions>): Queue;
  createWorker(address: QueueAddress, processor: Worker['processFn'], options: WorkerOptionsGiven): Worker;
};
