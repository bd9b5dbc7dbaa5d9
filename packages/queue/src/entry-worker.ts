import { type Job, type Queue, WaitingError } from 'bullmq';
import pRetry from 'p-retry';
import type { Admission } from './admission.js';
import { agreeOnShards, checkWithShards } from './agree-on-shards.js';
import { type Backlog, readBacklog } from './backlog.js';
import { type Chunk, parseChunk } from './chunk.js';
import { toWorst } from './clock-skew.js';
import { closeWorkers } from './close-workers.js';
import { followClock } from './follow-clock.js';
import { connectQueueBackend, type QueueBackend, type QueueConfig } from './queue-backend.js';
import { MAX_DELAY_MS, toWorkerOptions } from './retry-policy.js';
import { toAddresses } from './shards.js';

export type JobContext = {
  shard: number;
  jobId: string;
  /** From 1; a job that was postponed has used up none. */
  attempt: number;
  /** From 1; how often a worker has begun with it, this time included. */
  start: number;
  /** 0 for the jobs that come first; the larger, the longer was its project's backlog. */
  priority: number;
};

export type EntryWorkerOptions = QueueConfig & {
  /** Jobs that are processed at the same time, per shard. */
  concurrency: number;
  /** How long a job stays with a worker that gives no sign of life. */
  lockMs: number;
  /** Resolves when the chunk is persisted. What it throws is tried again with backoff; {@link Postponed} uses up no attempt. */
  process: (chunk: Chunk, context: JobContext) => Promise<void>;
  /** Takes data that is no chunk, which no retry can mend; the job is done when it resolves. */
  bury: (data: unknown, error: Error, context: JobContext) => Promise<void>;
  /** Hears of jobs that come back through no fault of theirs. */
  onPostponed: (reason: Postponed['reason']) => void;
  onRetry: (error: Error, context: { jobId: string; attempt: number }) => void;
  signal: AbortSignal;
  onError: (error: Error) => void;
};

/** The consumer's side, for all shards. */
export type EntryWorker = Pick<Admission, 'settle'> & {
  /** Takes jobs from now on. */
  start(): void;
  /** Takes no more jobs until `resume`; those under way go on. */
  pause(): void;
  resume(): void;
  backlog(): Promise<Backlog>;
  check: QueueBackend['check'];
  /** How far the clock of the store is ahead of this process's, in ms. */
  clockSkew(): Promise<number>;
  /** Takes no more jobs and resolves when those under way are done. Safe to call twice. */
  close(): Promise<void>;
};

type PostponedOptions = ErrorOptions & { delayMs?: number; reason?: Postponed['reason'] };

/**
 * Thrown by `process` and `bury`: not now, and it does not count. The job goes back to where it came from, at once or,
 * with `delayMs`, after that time.
 */
export class Postponed extends Error {
  override readonly name = 'Postponed';
  readonly delayMs: number;
  /** Of the store as a whole, or of this job's rows, which somebody holds. */
  readonly reason: 'outage' | 'blocked';

  constructor(message: string, { cause, delayMs = 0, reason = 'outage' }: PostponedOptions = {}) {
    super(message, { cause });
    this.delayMs = delayMs;
    this.reason = reason;
  }
}

/**
 * Waits for the store to answer once; from then on it recovers by itself.
 * @throws the reason of the signal's abort, or ShardsError
 */
export async function createEntryWorker(options: EntryWorkerOptions): Promise<EntryWorker> {
  const { concurrency, lockMs, process, bury, onPostponed, onRetry, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const shardCheck = await agreeOnShards(backend, config.shards, onError);
  const workerOptions = toWorkerOptions({ concurrency, lockMs });
  const limits = { lockMs, stalledMs: workerOptions.stalledInterval, delayMs: MAX_DELAY_MS };
  const stopFollowing = await followClock(backend, { shards: config.shards, limits, onError });
  const addresses = toAddresses(config.shards);
  const queues = await Promise.all(addresses.map((address) => backend.openQueue(address, { skipMetasUpdate: true })));
  // BullMQ also fails a job that it could not report as done, because the queue's store went away: not its entries' fault.
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
        if (chunk instanceof Error) await bury(job.data, chunk, context);
        else await process(chunk, context);
      } catch (error) {
        if (!(error instanceof Postponed)) {
          thrown.add(error as Error);
          throw error;
        }
        onPostponed(error.reason);
        await giveBack(job, token, error, () => isClosing);
        throw new WaitingError(); // tells BullMQ that the job is not ours any more
      }
    };
  }

  async function close(): Promise<void> {
    isClosing = true;
    await closeWorkers(workers.map((worker, shard) => ({ worker, queue: queues[shard] as Queue })));
    stopFollowing(); // not before: they may give jobs back
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
    backlog: () => readBacklog(queues),
    check: () => checkWithShards(backend, shardCheck),
    clockSkew: async () => toWorst(await backend.readClockSkews()),
    close() {
      closed ??= close();
      return closed;
    },
  };
}

/** Where the queue's store is away too, it waits for that. A job that is not ours any more is left alone. */
async function giveBack(
  job: Job,
  token: string | undefined,
  { delayMs }: Postponed,
  isClosing: () => boolean,
): Promise<void> {
  const isOurs = (error: Error & { code?: unknown }) => typeof error.code !== 'number'; // BullMQ's own verdicts are numbers
  const move = () => (delayMs > 0 ? job.moveToDelayed(Date.now() + delayMs, token) : job.moveToWait(token));
  await pRetry(async () => void (await move()), {
    retries: Number.POSITIVE_INFINITY,
    minTimeout: 100,
    maxTimeout: 2_000,
    randomize: true,
    shouldRetry: ({ error }) => isOurs(error) && !isClosing(),
  }).catch(() => {}); // What could not be given back stalls, and then goes to another worker.
}

function parseOrError(data: unknown): Chunk | Error {
  try {
    return parseChunk(data);
  } catch (error) {
    return error as Error;
  }
}
