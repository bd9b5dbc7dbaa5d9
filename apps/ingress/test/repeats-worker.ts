import { createEntryWorker, type EntryQueueOptions, type EntryWorker } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import type { Store } from '@opm/store';
import { waitFor } from '@opm/testkit';
import { createPersistChunk } from '../../worker/src/persist-chunk.js';
import { createUpserts } from '../../worker/src/upsert-entries.js';

const logger = createLogger({ name: 'test', level: 'silent' });
const ignore = () => {};

type Job = { opened: Promise<void>; open: () => void; done: Promise<void>; finish: () => void };

/** A worker that persists a job only when `drain` says so. */
export async function openStepwiseWorker(options: EntryQueueOptions, store: Store) {
  const jobs = new Map<string, Job>();
  let waiting: { id: string; onStored: () => void }[] = [];
  function jobOf(id: string): Job {
    const job = jobs.get(id) ?? { ...toGate('opened', 'open'), ...toGate('done', 'finish') };
    jobs.set(id, job);
    return job;
  }
  const worker: EntryWorker = await createEntryWorker({
    ...options,
    concurrency: 100,
    lockMs: 300_000,
    async process(chunk, context) {
      const job = jobOf(`${context.shard} ${context.jobId}`);
      await job.opened;
      await persistChunk(chunk, context);
      job.finish();
    },
    deadLetterInvalid: async (_data, error) => Promise.reject(error),
    ...{ onPostponed: ignore, onRetry: ignore },
  });
  const upserts = createUpserts({ customers: store.customers, onStatement: ignore, onConflict: ignore });
  const persistChunk = createPersistChunk({
    gate: { run: (call) => call(), check: async () => {} },
    ...upserts,
    addDeadLetters: () => Promise.reject(new Error('no entry is rejected here')),
    settle: worker.settle,
    ...{ maxRows: 1_000, maxInFlight: 2, maxAttempts: 8 },
    ...{ onPersisted: ignore, onDeadLetter: ignore },
    logger,
  });
  worker.start();
  return {
    onQueued: (shard: number, jobId: string, onStored: () => void) =>
      void waiting.push({ id: `${shard} ${jobId}`, onStored }),
    async drain(which: 'all' | 'first' | 'last'): Promise<void> {
      const taken = which === 'all' ? waiting : which === 'first' ? waiting.slice(0, 1) : waiting.slice(-1);
      waiting = waiting.filter((job) => !taken.includes(job));
      for (const { id } of taken) jobOf(id).open();
      await Promise.all(taken.map(({ id }) => jobOf(id).done));
      for (const { id, onStored } of taken) {
        jobs.delete(id);
        onStored();
      }
    },
    /** Waits until BullMQ has removed the jobs that are done. */
    untilIdle: () =>
      waitFor(
        async () => {
          const { jobs } = await worker.backlog();
          return Object.values(jobs).reduce((sum, count) => sum + count, 0) === waiting.length;
        },
        { description: 'the jobs to end' },
      ),
    close: worker.close,
  };
}

function toGate<Name extends string, Open extends string>(name: Name, open: Open) {
  let resolve = ignore;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { [name]: promise, [open]: () => resolve() } as Record<Name, Promise<void>> & Record<Open, () => void>;
}
