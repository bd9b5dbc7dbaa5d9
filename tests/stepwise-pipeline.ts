import { Fault } from '@opm/contract';
import type { EntryQueue, EntryWorker } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import type { Store } from '@opm/store';
import { ANSWER_TIMEOUT_MS } from '@opm/testkit';
import { type AcceptEntry, createAcceptEntry } from '../apps/ingress/src/accept-entry.js';
import { createFindExisting } from '../apps/ingress/src/find-existing.js';
import { createLanes } from '../apps/ingress/src/lanes.js';
import { OutagePause } from '../apps/ingress/src/outage-pause.js';
import { toTimeBudget } from '../apps/ingress/src/time-budget.js';
import { createPersistChunk, type PersistChunk } from '../apps/worker/src/persist-chunk.js';
import { createUpsertChunks } from '../apps/worker/src/upsert-chunks.js';
import type { AdmissionHistory } from './admission-history.js';

/** Makes the call when it is its turn, and no other at the same time. */
export type Step = <T>(label: string, call: () => Promise<T>) => Promise<T>;

type Context = {
  store: Store;
  history: AdmissionHistory;
  step: Step;
  /** Whether the next call that settles or releases fails. */
  isNextFailing: () => boolean;
};
type IngressContext = Context & {
  queue: EntryQueue;
  /** Who takes the next chunk that is enqueued; where nobody does, its enqueue fails. */
  nextTakers: () => PersistChunk[];
  /** What the takers do, to be waited for. */
  jobs: Promise<void>[];
};

/** What enqueues that fail throw. */
export const QUEUE_DOWN = new Fault('QUEUE_UNAVAILABLE');

const logger = createLogger({ name: 'test', level: 'silent' });
const budget = toTimeBudget(ANSWER_TIMEOUT_MS);
const ignore = () => {};
const idsOf = (entries: { customerId: string }[]) => entries.map(({ customerId }) => customerId).join(' ');

/** The ingress's code from the entry to the queue, with every call of a store as a step. */
export function createStepwiseIngress(context: IngressContext): AcceptEntry {
  const { queue, store, history, step, isNextFailing, nextTakers, jobs } = context;
  const findExisting = createFindExisting({
    findExisting: store.customers.findExisting,
    maxInFlight: 4,
    timeoutMs: budget.lookUpMs,
    pause: new OutagePause({ onFailure: ignore }),
    onUnknown: ignore,
  });
  const { acceptEntry } = createAcceptEntry({
    queue: {
      admit: (shard, projectId, given) =>
        step(`admit ${idsOf(given)}`, async () => {
          const admittance = await queue.admit(shard, projectId, given);
          history.admit(given, admittance.admitted);
          return admittance;
        }),
      enqueue: (shard, chunk, backlog) =>
        step(`enqueue ${idsOf(chunk.entries)}`, async () => {
          const takers = nextTakers();
          if (takers.length === 0) throw QUEUE_DOWN;
          const jobId = await queue.enqueue(shard, chunk, backlog);
          history.enqueue(chunk.entries);
          jobs.push(...takers.map((persist) => persist(chunk, { shard, jobId, attempt: 1, start: 1, priority: 0 })));
          return jobId;
        }),
      release: (shard, projectId, admitted) =>
        step(`release ${idsOf(admitted)}`, async () => {
          if (isNextFailing()) {
            history.failToRelease(admitted);
            throw QUEUE_DOWN;
          }
          await queue.release(shard, projectId, admitted);
          history.release(admitted);
        }),
    },
    findExisting: async (question) => {
      if (question.asked.length === 0) return findExisting(question);
      return step(`look up ${idsOf(question.asked)}`, async () => {
        const existing = await findExisting(question);
        history.lookUp(question.asked);
        return existing;
      });
    },
    lanes: createLanes(1),
    budget,
    maxEntries: 200,
    maxInFlight: 4,
    maxPending: 1_000,
    isStale: () => false,
    onChunk: ignore,
    onShed: ignore,
    logger,
  });
  return acceptEntry;
}

/** The worker's code from the chunk to the row, with every call of a store as a step. */
export function createStepwiseWorker({
  worker,
  store,
  history,
  step,
  isNextFailing,
}: Context & { worker: Pick<EntryWorker, 'settle'> }): PersistChunk {
  return createPersistChunk({
    gate: { run: (call) => call(), check: async () => {} },
    upsert: createUpsertChunks({
      upsert: (rows) =>
        step(`upsert ${idsOf(rows)}`, async () => {
          await store.customers.upsert(rows);
          history.upsert(rows);
        }),
      onStatement: ignore,
      onConflict: ignore,
    }),
    upsertAlone: () => Promise.reject(new Error('nothing has to go alone here')),
    addDeadLetters: () => Promise.reject(new Error('nothing is refused here')),
    settle: (shard, chunks) =>
      step(`settle ${idsOf(chunks.flatMap(({ entries }) => entries))}`, async () => {
        if (isNextFailing()) {
          history.failToSettle();
          throw QUEUE_DOWN;
        }
        await worker.settle(shard, chunks);
        history.settle(chunks);
      }),
    maxRows: 1_000,
    maxInFlight: 2,
    maxAttempts: 8,
    onPersisted: ignore,
    onDeadLetter: ignore,
    logger,
  });
}
