import type { JobsOptions, WorkerOptions } from 'bullmq';

/**
 * An acknowledged entry is never given up, so attempts are as good as unbounded (BullMQ's PostgreSQL backend keeps them
 * as a 32-bit integer): the worker makes a dead letter of what no retry mends, and if even that fails it tries again.
 * Finished jobs go at once. None should ever fail; what fails all the same, by hand say, is kept within bounds.
 */
export const JOB_OPTIONS: JobsOptions = {
  attempts: 2 ** 31 - 1,
  backoff: { type: 'capped-exponential' },
  removeOnComplete: true,
  removeOnFail: { age: 30 * 24 * 60 * 60, count: 10_000 },
  stackTraceLimit: 1, // of all attempts
};

const FIRST_DELAY_MS = 250;
/** No job is postponed for longer. */
export const MAX_DELAY_MS = 30_000;
/** Until a worker whose queue refused the connection, or a job, asks again; BullMQ's own is 15 s, which entries would wait after an outage. */
export const RECONNECT_DELAY_MS = 1_000;

/** Exponential, capped, the upper half of it random, so that workers do not come back all at once. @param attempt from 1 */
export function retryDelayMs(
  attempt: number,
  { maxMs = MAX_DELAY_MS, random = Math.random }: { maxMs?: number; random?: () => number } = {},
): number {
  const delay = Math.min(FIRST_DELAY_MS * 2 ** Math.min(attempt - 1, 20), maxMs);
  return Math.round(delay * (0.5 + random() / 2));
}

/**
 * A job whose worker died goes to another one when its lock has run out, at the next check: after 1.25 locks at most.
 * Locks of living workers are renewed at half time, however long a job takes. A worker that dies again and again must
 * not turn its jobs into failures, so they may stall as often as they like: merging an entry twice changes nothing.
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
