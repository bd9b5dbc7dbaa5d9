import type { JobsOptions, WorkerOptions } from 'bullmq';

/**
 * An acknowledged entry is never given up for an outage, so attempts are as good as unbounded (BullMQ's PostgreSQL
 * backend keeps them as a 32-bit integer), and what no retry can mend is a dead letter. Finished jobs go at once; none
 * should ever fail, and one that does stays until an operator has seen it.
 */
export const JOB_OPTIONS: JobsOptions = {
  attempts: 2 ** 31 - 1,
  backoff: { type: 'capped-exponential' },
  removeOnComplete: true,
  removeOnFail: false,
};

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 30_000;

/** Exponential, capped, with full-range jitter in the upper half, so that workers do not come back all at once. */
export function retryDelayMs(attemptsMade: number, random = Math.random): number {
  const delay = Math.min(FIRST_DELAY_MS * 2 ** Math.min(attemptsMade - 1, 20), MAX_DELAY_MS);
  return Math.round(delay * (0.5 + random() / 2));
}

export const WORKER_OPTIONS: Partial<WorkerOptions> = {
  lockDuration: 30_000,
  stalledInterval: 15_000,
  // A worker that dies again and again must not turn its jobs into failures: merging an entry twice changes nothing.
  maxStalledCount: 2 ** 31 - 1,
  settings: { backoffStrategy: (attemptsMade) => retryDelayMs(attemptsMade) },
};
