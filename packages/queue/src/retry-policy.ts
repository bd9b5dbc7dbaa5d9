import { setTimeout as delay } from 'node:timers/promises';
import type { JobsOptions, WorkerOptions } from 'bullmq';
import { type BackendFactory, type IQueueBackend, isNotConnectionError } from 'bullmq';

/**
 * An acknowledged entry is never given up, so attempts are practically unlimited. (BullMQ's PostgreSQL backend stores
 * them as a 32-bit integer.) The worker dead-letters entries that no retry can fix, and retries if that fails too.
 *
 * BullMQ removes finished jobs at once. No job should end as failed; the limits apply to jobs that an operator fails
 * by hand.
 */
export const JOB_OPTIONS: JobsOptions = {
  attempts: 2 ** 31 - 1,
  backoff: { type: 'capped-exponential' },
  removeOnComplete: true,
  removeOnFail: { age: 30 * 24 * 60 * 60, count: 10_000 },
  stackTraceLimit: 1, // for all attempts together
};

const FIRST_DELAY_MS = 250;
/** The longest delay of a postponed or retried job, in ms. */
export const MAX_DELAY_MS = 30_000;
/**
 * Delay before a worker retries after the store refused a connection or a job, in ms. BullMQ's default is 15 s; entries
 * would wait that long after an outage.
 */
const RECONNECT_DELAY_MS = 1_000;

/**
 * Exponential backoff with a cap, in ms. The upper half is random, so that workers do not retry all at once.
 * @param attempt from 1
 */
export function retryDelayMs(
  attempt: number,
  { maxMs = MAX_DELAY_MS, random = Math.random }: { maxMs?: number; random?: () => number } = {},
): number {
  const delay = Math.min(FIRST_DELAY_MS * 2 ** Math.min(attempt - 1, 20), maxMs);
  return Math.round(delay * (0.5 + random() / 2));
}

/**
 * If a worker dies, BullMQ gives its jobs to another worker at the first stalled check after their locks expire:
 * within 1.25 lock durations. A running worker renews its locks at half time, however long a job takes. Jobs may
 * stall any number of times, so that a worker that keeps crashing does not fail them: merging an entry twice changes
 * nothing.
 */
export function toWorkerOptions({ concurrency, lockMs }: { concurrency: number; lockMs: number }) {
  return {
    concurrency,
    lockDuration: lockMs,
    stalledInterval: Math.ceil(lockMs / 4),
    maxStalledCount: 2 ** 31 - 1,
    runRetryDelay: RECONNECT_DELAY_MS,
    settings: { backoffStrategy: (attemptsMade: number) => retryDelayMs(attemptsMade) },
    autorun: false,
  } satisfies Partial<WorkerOptions>;
}

/**
 * Makes a worker wait before it retries if the store rejects its request for a job. BullMQ (6.7) waits only if the
 * connection is lost. It would ask a store that rejects writes, because of a missing replica or a full disk, a
 * thousand times a second.
 */
export function withBackOff<Backend extends IQueueBackend, Connection>(
  createBackend: BackendFactory<Backend, Connection>,
): BackendFactory<Backend, Connection> {
  return (...args) => {
    const backend = createBackend(...args);
    const original = backend.moveToActive.bind(backend);
    const moveToActive: typeof original = async (...call) => {
      try {
        return await original(...call);
      } catch (error) {
        if (isNotConnectionError(error as Error)) await delay(RECONNECT_DELAY_MS);
        throw error;
      }
    };
    return Object.assign(backend, { moveToActive });
  };
}
