import { GroupCommit, withTimeout } from '@opm/core';
import { type Chunk, type ChunkEntry, type EntryWorker, type JobContext, Postponed, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';
import { createPersistAlone, type PersistAloneDeps, type Unfinished } from './persist-alone.js';
import { createSuspects } from './suspects.js';
import type { UpsertEntries } from './upsert-entries.js';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = Omit<PersistAloneDeps, 'suspects'> & {
  upsert: UpsertEntries;
  settle: EntryWorker['settle'];
  /** Statements under way at the same time. */
  maxInFlight: number;
};

/** For so long after a job of a short backlog the statements of long ones are small, and so much smaller than others. */
const POLITE_MS = 250;
const POLITE_DIVISOR = 4;
/** What has not been settled by then is cleared away later, as after any failure. */
const SETTLE_TIMEOUT_MS = 5_000;
/** Entries of which it is known that they are left of their jobs. */
const MAX_LEFT = 200_000;

const NOTHING: Unfinished = { entries: [], error: undefined };

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { gate, upsert, settle, maxRows, maxInFlight, onPersisted, logger } = deps;

  const suspects = createSuspects();
  const persistAlone = createPersistAlone({ ...deps, suspects });
  /** The entries for which jobs were postponed; all others of theirs are done. */
  const leftOf = new LRUCache<string, Set<string>>({
    maxSize: MAX_LEFT,
    sizeCalculation: ({ size }) => size,
  });
  const bounds = { sizeOf: (entries: ChunkEntry[]) => entries.length, maxInFlight };

  let shortCameAt = Number.NEGATIVE_INFINITY;
  const isShortAbout = () => performance.now() - shortCameAt < POLITE_MS;

  /** What is not persisted of each job: all, if the statement fails, and what has become suspect while it waited. */
  const createStatements = (maxBatch: number | (() => number)) =>
    new GroupCommit<number, ChunkEntry[], ChunkEntry[]>({
      ...bounds,
      maxBatch,
      async commit(_lane, jobs) {
        const left = jobs.map((own) => own.filter(suspects.isSuspect));
        const entries = jobs.flat();
        const sound = left.some(({ length }) => length > 0)
          ? entries.filter((one) => !suspects.isSuspect(one))
          : entries;
        if (sound.length === 0) return left; // without a statement, for the gate would take it for a success
        const isPersisted = await gate.run(() => upsert(sound)).then(() => true, isolate);
        if (!isPersisted) return jobs;
        onPersisted(sound);
        return left;
      },
    });

  /**
   * A job of a short backlog need not wait for its turn behind the statements of long ones. It waits for one of them to end
   * where all jobs that the worker may have are theirs, and for the processor: both take less long where they are small.
   */
  const statements = {
    ofShortBacklogs: createStatements(maxRows),
    ofLongBacklogs: createStatements(() => (isShortAbout() ? Math.ceil(maxRows / POLITE_DIVISOR) : maxRows)),
  };

  /**
   * The jobs of a statement come here together, so there is one call for each; the next statement need not wait for it. Nor
   * need other shards: the store of one may be away for good.
   */
  const settlements = new GroupCommit<number, ChunkEntry[], void>({
    ...bounds,
    maxBatch: maxRows,
    maxInFlight: Number.POSITIVE_INFINITY,
    maxInFlightPerLane: maxInFlight,
    async commit(shard, jobs) {
      await withTimeout(settle(shard, jobs.flat()), SETTLE_TIMEOUT_MS).catch((error) => {
        logger.warn({ err: error }, 'claims could not be settled; they are cleared away later');
      });
      return jobs.map(() => undefined);
    },
  });

  /** @returns what is left of them */
  async function persistWithOthers(entries: ChunkEntry[], context: JobContext): Promise<Unfinished> {
    if (entries.length === 0) return NOTHING;
    const { shard, priority } = context;
    if (priority === 0) shortCameAt = performance.now();
    // Erasures cost more statements; the ingress puts them into chunks of their own, and here they are apart, too.
    const lane = entries.some(({ erase }) => erase) ? -1 - shard : shard;
    const left = await statements[priority > 0 ? 'ofLongBacklogs' : 'ofShortBacklogs'].run(lane, entries);
    const persisted = left.length > 0 ? entries.filter((entry) => !left.includes(entry)) : entries;
    if (persisted.length > 0) await settlements.run(shard, persisted);
    return persistSuspects(left, context);
  }

  /** The same for entries that no statement with those of others should have. */
  async function persistSuspects(entries: ChunkEntry[], context: JobContext): Promise<Unfinished> {
    if (entries.length === 0) return NOTHING;
    const unfinished = await persistAlone(entries, context);
    const waiting = new Set(unfinished.entries);
    const finished = entries.filter((entry) => !waiting.has(entry));
    if (finished.length > 0) await settlements.run(context.shard, finished);
    return unfinished;
  }

  return async ({ entries }, context) => {
    const { shard, jobId, start } = context;
    const key = `${shard}:${jobId}`;
    const known = leftOf.get(key);
    const due = known ? entries.filter((entry) => known.has(keyOf(entry))) : entries;
    // A job that was begun before goes alone: something was wrong with it.
    const sound = start === 1 ? due.filter((entry) => !suspects.isSuspect(entry)) : [];
    const others = sound.length === due.length ? [] : start === 1 ? due.filter(suspects.isSuspect) : due;
    const both = await Promise.all([persistWithOthers(sound, context), persistSuspects(others, context)]);
    const left = both.flatMap((unfinished) => unfinished.entries);
    if (left.length === 0) {
      leftOf.delete(key);
      logger.debug({ jobId, entries: entries.length }, 'chunk done');
      return;
    }
    leftOf.set(key, new Set(left.map(keyOf)));
    const error = both.find((unfinished) => unfinished.error)?.error;
    throw error ?? new Postponed('another session holds rows', { delayMs: retryDelayMs(start), reason: 'blocked' });
  };
}

/** Whatever a statement failed with, if it is not an outage, some of its entries are to blame. */
function isolate(error: unknown): false {
  if (error instanceof Postponed) throw error;
  return false;
}

/** Of two files that are imported as of the same time, lines with the same number have the same version. */
const keyOf = ({ projectId, customerId, version }: ChunkEntry) => `${version}:${projectId}:${customerId}`;
