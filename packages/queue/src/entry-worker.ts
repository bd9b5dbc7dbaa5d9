import type { Job } from 'bullmq';
import type { Admission } from './admission.js';
import { type Chunk, parseChunk } from './chunk.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { WORKER_OPTIONS } from './retry-policy.js';

export type EntryWorkerOptions = QueueConfig & {
  /** Jobs that are processed at the same time, per shard. */
  concurrency: number;
  /** Resolves when the chunk is persisted. What it throws is retried with backoff. */
  process: (chunk: Chunk, context: { shard: number; jobId: string }) => Promise<void>;
  /** Takes data that is no chunk, which no retry can mend; the job is done when it resolves. */
  bury: (data: unknown, error: Error, context: { jobId: string }) => Promise<void>;
  onRetry: (error: Error, context: { jobId: string; attempt: number }) => void;
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
  const { concurrency, process, bury, onRetry, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const workers = Array.from({ length: config.shards }, (_, shard) =>
    backend
      .createWorker(shard, processJob(shard), { ...WORKER_OPTIONS, concurrency, autorun: false })
      .on('failed', (job, error) => onRetry(error, { jobId: job?.id ?? 'unknown', attempt: job?.attemptsMade ?? 0 })),
  );

  function processJob(shard: number) {
    return async (job: Job): Promise<void> => {
      const jobId = job.id ?? 'unknown';
      const chunk = parseOrError(job.data);
      if (chunk instanceof Error) await bury(job.data, chunk, { jobId });
      else await process(chunk, { shard, jobId });
    };
  }

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

function parseOrError(data: unknown): Chunk | Error {
  try {
    return parseChunk(data);
  } catch (error) {
    return error as Error;
  }
}
