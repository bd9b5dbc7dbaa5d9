import { type Job, UnrecoverableError } from 'bullmq';
import type { Admission } from './admission.js';
import { type Chunk, parseChunk } from './chunk.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { WORKER_OPTIONS } from './retry-policy.js';

/** Thrown by `process` for what no retry can mend: the job goes to the failed ones at once. */
export class PoisonChunk extends Error {
  override readonly name = 'PoisonChunk';
}

export type EntryWorkerOptions = QueueConfig & {
  /** Jobs that are processed at the same time, per shard. */
  concurrency: number;
  /** Resolves when the chunk is persisted. What it throws is retried with backoff, except {@link PoisonChunk}. */
  process: (chunk: Chunk, context: { shard: number; jobId: string }) => Promise<void>;
  onRetry: (error: Error, context: { jobId: string; attempt: number }) => void;
  onFailed: (error: Error, context: { jobId: string }) => void;
  signal: AbortSignal;
  onError: (error: Error) => void;
};

/** The consumer's side, for all shards. */
export type EntryWorker = Pick<Admission, 'settle'> & {
  /** Takes jobs from now on. */
  start(): void;
  /** @throws Error that says what to change */
  check(): Promise<void>;
  /** Takes no more jobs and resolves when those under way are done. */
  close(): Promise<void>;
};

const SWEEP_INTERVAL_MS = 60 * 60 * 1_000;

/** Waits for the store to answer once; from then on it recovers by itself. @throws the reason of the signal's abort */
export async function createEntryWorker(options: EntryWorkerOptions): Promise<EntryWorker> {
  const { concurrency, process, onRetry, onFailed, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const workers = Array.from({ length: config.shards }, (_, shard) =>
    backend
      .createWorker(shard, (job) => processJob(job, shard, process), { ...WORKER_OPTIONS, concurrency, autorun: false })
      .on('failed', (job, error) => {
        const jobId = job?.id ?? 'unknown';
        if (error instanceof UnrecoverableError) onFailed(error, { jobId });
        else onRetry(error, { jobId, attempt: job?.attemptsMade ?? 0 });
      }),
  );
  const sweep = () => void backend.admission.sweep().catch(onError);
  let sweeping: NodeJS.Timeout | undefined;
  return {
    settle: backend.admission.settle,
    start() {
      sweep();
      sweeping = setInterval(sweep, SWEEP_INTERVAL_MS);
      for (const worker of workers) worker.run().catch(onError);
    },
    check: () => backend.check(),
    async close() {
      clearInterval(sweeping);
      await Promise.all(workers.map((worker) => worker.close()));
      await backend.close();
    },
  };
}

async function processJob(job: Job, shard: number, process: EntryWorkerOptions['process']): Promise<void> {
  const jobId = job.id ?? 'unknown';
  try {
    await process(parseJob(job), { shard, jobId });
  } catch (error) {
    if (error instanceof PoisonChunk) throw new UnrecoverableError(error.message);
    throw error;
  }
}

function parseJob(job: Job): Chunk {
  try {
    return parseChunk(job.data);
  } catch (error) {
    throw new PoisonChunk((error as Error).message, { cause: error });
  }
}
