import { withTimeout } from '@opm/core';
import { type Job, type Queue, WaitingError, type Worker } from 'bullmq';
import pRetry from 'p-retry';
import type { Admission } from './admission.js';
import { type Backlog, readBacklog } from './backlog.js';
import { type Chunk, parseChunk } from './chunk.js';
import { followClock, toLargestSkew } from './clock.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { type QueueBackend, toAddresses } from './queue-store.js';
import { MAX_DELAY_MS, toWorkerOptions } from './retry-policy.js';
import { checkStoreAndShards, createShardCheck } from './shard-check.js';

export type JobContext = {
  shard: number;
  jobId: string;
  /** From 1. Postponing a job uses up no attempt. */
  attempt: number;
  /** How often a worker has started the job, including this time. From 1. */
  start: number;
  /** See `toPriority`: 0 for a short backlog; larger for a longer backlog. */
  priority: number;
};

export type EntryWorkerOptions = QueueConfig & {
  /** Jobs processed at the same time per shard. */
  concurrency: number;
  /** Job lock in ms: how long a silent worker keeps a job. */
  lockMs: number;
  /** Persists a chunk. If it throws, BullMQ retries the job with backoff; {@link Postponed} uses up no attempt. */
  process: (chunk: Chunk, context: JobContext) => Promise<void>;
  /** Dead-letters invalid job data, which no retry can fix. The job is done when it resolves. */
  deadLetterInvalid: (data: unknown, error: Error, context: JobContext) => Promise<void>;
  /** Called if a job returns to the queue and its entries are not the cause. */
  onPostponed: (reason: Postponed['reason']) => void;
  /** Called if `process` or `deadLetterInvalid` threw another error, so the job is retried. */
  onRetry: (error: Error, context: { jobId: string; attempt: number }) => void;
  signal: AbortSignal;
  onError: (error: Error) => void;
};

/** The consumer's side, for all shards. */
export type EntryWorker = Pick<Admission, 'settle'> & {
  /** Starts taking jobs. */
  start(): void;
  /** Takes no more jobs until `resume`. Active jobs continue. */
  pause(): void;
  resume(): void;
  backlog(): Promise<Backlog>;
  check: QueueBackend['check'];
  /** How far the store's clock is ahead of this process's, in ms. */
  clockSkew(): Promise<number>;
  /** Takes no more jobs. Resolves when the active jobs are done. Safe to call twice. */
  close(): Promise<void>;
};

type PostponedOptions = ErrorOptions & { delayMs?: number; reason?: Postponed['reason'] };

/**
 * Thrown by `process` and `deadLetterInvalid` to postpone a job without using up an attempt. The job returns to the
 * queue at once, or after `delayMs`.
 */
export class Postponed extends Error {
  override readonly name = 'Postponed';
  readonly delayMs: number;
  /** `outage`: PostgreSQL or the queue's store is unavailable. `blocked`: another session has locked the job's rows. */
  readonly reason: 'outage' | 'blocked';

  constructor(message: string, { cause, delayMs = 0, reason = 'outage' }: PostponedOptions = {}) {
    super(message, { cause });
    this.delayMs = delayMs;
    this.reason = reason;
  }
}

/**
 * Resolves after the store has answered once. Later outages of the store need no action.
 * @throws the reason of the signal's abort, or ShardsError
 */
export async function createEntryWorker(options: EntryWorkerOptions): Promise<EntryWorker> {
  const { concurrency, lockMs, process, deadLetterInvalid, onPostponed, onRetry, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const shardCheck = await createShardCheck(backend, config.shards, { onError });
  const workerOptions = toWorkerOptions({ concurrency, lockMs });
  const limits = { lockMs, stalledMs: workerOptions.stalledInterval, delayMs: MAX_DELAY_MS };
  const stopFollowing = await followClock(backend, { shards: config.shards, limits, onError });
  const addresses = toAddresses(config.shards);
  const queues = await Promise.all(addresses.map((address) => backend.openQueue(address, { skipMetasUpdate: true })));
  // The errors of `process` and `deadLetterInvalid`. BullMQ also reports a job as failed if the queue's store went down
  // before it could report the job as done; that is not the entries' fault.
  const thrown = new WeakSet<Error>();
  const workers = await Promise.all(
    addresses.map((address, shard) => backend.openWorker(address, processJob(shard), workerOptions)),
  );
  for (const worker of workers) {
    worker.on('failed', (job, error) => {
      if (thrown.has(error)) onRetry(error, { jobId: job?.id ?? 'unknown', attempt: job?.attemptsMade ?? 0 });
      else onPostponed('outage');
    });
  }
  let isClosing = false;
  let closed: Promise<void> | undefined;

  function processJob(shard: number) {
    return async (job: Job, token?: string): Promise<void> => {
      const { id: jobId = 'unknown', attemptsMade, attemptsStarted: start, priority } = job;
      const context = { shard, jobId, attempt: attemptsMade + 1, start, priority };
      const chunk = parseOrError(job.data);
      try {
        if (chunk instanceof Error) await deadLetterInvalid(job.data, chunk, context);
        else await process(chunk, context);
      } catch (error) {
        if (!(error instanceof Postponed)) {
          thrown.add(error as Error);
          throw error;
        }
        onPostponed(error.reason);
        await returnJob(job, token, error, () => isClosing);
        throw new WaitingError(); // tells BullMQ that the job is no longer this worker's
      }
    };
  }

  async function close(): Promise<void> {
    isClosing = true;
    await closeWorkers(workers.map((worker, shard) => ({ worker, queue: queues[shard] as Queue })));
    stopFollowing(); // after the workers, which may still return jobs
    await backend.close();
  }

  return {
    settle: backend.admission.settle,
    start() {
      for (const worker of workers) worker.run().catch(onError);
    },
    pause() {
      for (const worker of workers) worker.pause(true).catch(onError);
    },
    resume() {
      for (const worker of workers) worker.resume();
    },
    backlog: () => readBacklog(queues, backend.findOldest),
    check: () => checkStoreAndShards(backend, shardCheck),
    clockSkew: async () => toLargestSkew(await backend.readClockSkews()),
    close() {
      closed ??= close();
      return closed;
    },
  };
}

/**
 * Returns a job to the queue, unless this worker has lost it. If the queue's store is down, retries until it is back.
 */
async function returnJob(
  job: Job,
  token: string | undefined,
  { delayMs }: Postponed,
  isClosing: () => boolean,
): Promise<void> {
  // BullMQ's own errors, such as a lost job lock, have numeric codes.
  const isStillOurs = (error: Error & { code?: unknown }) => typeof error.code !== 'number';
  const move = () => (delayMs > 0 ? job.moveToDelayed(Date.now() + delayMs, token) : job.moveToWait(token));
  await pRetry(async () => void (await move()), {
    retries: Number.POSITIVE_INFINITY,
    minTimeout: 100,
    maxTimeout: 2_000,
    randomize: true,
    shouldRetry: ({ error }) => isStillOurs(error) && !isClosing(),
  }).catch(() => {}); // a job that could not be returned stalls, and BullMQ gives it to another worker
}

function parseOrError(data: unknown): Chunk | Error {
  try {
    return parseChunk(data);
  } catch (error) {
    return error as Error;
  }
}

/** The ping needs its own timeout: a worker's connection waits for a store that is down. */
const PING_TIMEOUT_MS = 2_000;

/**
 * Closes the workers: each takes no more jobs and waits for its active ones. Workers whose store is down do not wait,
 * because the store may stay down: BullMQ gives their jobs to other workers when the locks expire. Queues may be on
 * different Redis masters, so each is pinged separately.
 */
export async function closeWorkers(workers: { queue: Queue; worker: Worker }[]): Promise<void> {
  await Promise.all(workers.map(async ({ queue, worker }) => worker.close(await isDown(queue))));
}

const isDown = (queue: Queue): Promise<boolean> =>
  withTimeout(queue.isPaused(), PING_TIMEOUT_MS).then(
    () => false,
    () => true,
  );
