import { Fault } from '@opm/contract';
import type { AdmitRequest, EntryQueue, EntryWorker } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import type { Store } from '@opm/store';
import { ANSWER_TIMEOUT_MS } from '@opm/testkit';
import { toTimeBudget } from '../apps/ingress/src/config.js';
import { createAcceptEntry } from '../apps/ingress/src/ingest/accept-entry.js';
import type { AcceptEntry, EntryInput } from '../apps/ingress/src/ingest/call.js';
import { CircuitBreaker } from '../apps/ingress/src/ingest/circuit-breaker.js';
import { createFindExisting } from '../apps/ingress/src/ingest/find-existing.js';
import { createChunkPartitions } from '../apps/ingress/src/ingest/partitions.js';
import { createPersistChunk, type PersistChunk } from '../apps/worker/src/persist-chunk.js';
import { createUpserts } from '../apps/worker/src/upsert-entries.js';
import { type AdmissionHistory, toKey } from './admission-history.js';

/** Makes the call when the scheduler chooses it; never two at the same time. */
export type Step = <T>(label: string, call: () => Promise<T>) => Promise<T>;

type Context = {
  store: Store;
  history: AdmissionHistory;
  step: Step;
  /** Whether the next settle or release call fails. */
  isNextFailing: () => boolean;
};
type IngressContext = Context & {
  queue: EntryQueue;
  /** The workers that take the next chunk; if there are none, its enqueue fails. */
  nextTakers: () => PersistChunk[];
  /** A project with a long backlog: its entries get jobs of another priority. */
  busyProjectId: number;
  /** The work of the takers, for the test to wait for. */
  jobs: Promise<void>[];
};

/** The error of failed calls. */
export const QUEUE_DOWN = new Fault('QUEUE_UNAVAILABLE');

const LONG_BACKLOG = 1_000;
const logger = createLogger({ name: 'test', level: 'silent' });
const budget = toTimeBudget(ANSWER_TIMEOUT_MS);
const ignore = () => {};
const idsOf = (entries: { projectId: number; customerId: string }[]) => entries.map(toKey).join(' ');

/** Runs the ingress's code from the entry to the queue, with every store call as a step. */
export function createStepwiseIngress(context: IngressContext): AcceptEntry {
  const { queue, store, history, step, isNextFailing, nextTakers, busyProjectId, jobs } = context;
  const chunkPartitions = createChunkPartitions(1);
  chunkPartitions.onBacklogs(0, new Map([[busyProjectId, LONG_BACKLOG]]));
  const findExisting = createFindExisting({
    query: store.customers.findExisting,
    maxInFlight: 4,
    timeoutMs: budget.lookUpMs,
    breaker: new CircuitBreaker({ onFailure: ignore }),
    onUnknown: ignore,
  });
  const { acceptEntry } = createAcceptEntry({
    queue: {
      ...queue,
      admit: (shard, given) =>
        step(`admit ${idsOf(given)}`, async () => {
          const admittance = await queue.admit(shard, given);
          history.admit(given as (AdmitRequest & { entry: EntryInput })[], admittance.admitted);
          return { ...admittance, backlogs: new Map() }; // the priorities stay
        }),
      enqueue: (shard, chunk, priority = 0) =>
        step(`enqueue ${idsOf(chunk.entries)}`, async () => {
          const takers = nextTakers();
          if (takers.length === 0) throw QUEUE_DOWN;
          const jobId = await queue.enqueue(shard, chunk, priority);
          history.enqueue(chunk.entries, priority);
          jobs.push(...takers.map((persist) => persist(chunk, { shard, jobId, attempt: 1, start: 1, priority })));
          return jobId;
        }),
      release: (shard, admitted) =>
        step(`release ${idsOf(admitted)}`, async () => {
          if (isNextFailing()) {
            history.failToRelease(admitted);
            throw QUEUE_DOWN;
          }
          await queue.release(shard, admitted);
          history.release(admitted);
        }),
    },
    findExisting: async (asked, deadline) => {
      if (asked.length === 0) return findExisting(asked, deadline);
      return step(`look up ${idsOf(asked)}`, async () => {
        const existing = await findExisting(asked, deadline);
        history.lookUp(asked);
        return existing;
      });
    },
    chunkPartitions,
    maxInFlight: 1, // admissions of the ingresses overlap; here, those that wait collect entries of several projects
    budget,
    maxEntries: 200,
    maxPending: 1_000,
    isAbandoned: () => false,
    onChunk: ignore,
    onRecordBytes: ignore,
    onShed: ignore,
    logger,
  });
  return acceptEntry;
}

/** Runs the worker's code from the chunk to the row, with every store call as a step. */
export function createStepwiseWorker({
  worker,
  store,
  history,
  step,
  isNextFailing,
}: Context & { worker: Pick<EntryWorker, 'settle'> }): PersistChunk {
  const upserts = createUpserts({
    customers: {
      upsert: (rows) =>
        step(`upsert ${idsOf(rows)}`, async () => {
          await store.customers.upsert(rows);
          history.upsert(rows);
        }),
      upsertEach: () => Promise.reject(new Error('no entry needs to be isolated here')),
    },
    onStatement: ignore,
    onConflict: ignore,
  });
  return createPersistChunk({
    gate: { run: (call) => call(), check: async () => {} },
    upsert: upserts.upsert,
    upsertEach: upserts.upsertEach,
    addDeadLetters: () => Promise.reject(new Error('no entry is rejected here')),
    settle: (shard, entries) =>
      step(`settle ${idsOf(entries)}`, async () => {
        if (isNextFailing()) {
          history.failToSettle();
          throw QUEUE_DOWN;
        }
        await worker.settle(shard, entries);
        history.settle(entries);
      }),
    maxRows: 1_000,
    maxInFlight: 2,
    maxAttempts: 8,
    onPersisted: ignore,
    onDeadLetter: ignore,
    logger,
  });
}
