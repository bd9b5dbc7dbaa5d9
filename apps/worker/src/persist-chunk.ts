import { type CustomerEntry, GroupCommit, withTimeout } from '@opm/core';
import { type Chunk, type EntryWorker, type JobContext, Postponed, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';
import { createHeldCustomers } from './held-customers.js';
import { createPersistAlone, type PersistAloneDeps } from './persist-alone.js';
import type { UpsertChunks } from './upsert-chunks.js';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = Omit<PersistAloneDeps, 'heldCustomers'> & {
  upsert: UpsertChunks;
  settle: EntryWorker['settle'];
  /** Entries in one statement at most. */
  maxRows: number;
  /** Statements under way at the same time. */
  maxInFlight: number;
};

/** For so long after a job of a short backlog the statements of long ones are small, and so much smaller than others. */
const POLITE_MS = 250;
const POLITE_DIVISOR = 4;
/** What has not been settled by then is cleared away later, as after any failure. */
const SETTLE_TIMEOUT_MS = 5_000;
/** Jobs of which it is known what is done. */
const MAX_POSTPONED = 1_000;

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { gate, upsert, settle, maxRows, maxInFlight, onPersisted, logger } = deps;

  const heldCustomers = createHeldCustomers();
  const persistAlone = createPersistAlone({ ...deps, heldCustomers });
  /** The entries that are done of jobs that were postponed for the others. */
  const doneOf = new LRUCache<string, Set<string>>({ max: MAX_POSTPONED });
  const bounds = { sizeOf: ({ entries }: Chunk) => entries.length, maxInFlight };

  let shortCameAt = Number.NEGATIVE_INFINITY;
  const isShortAbout = () => performance.now() - shortCameAt < POLITE_MS;

  /** Whether the statement was persisted; if not, its chunks go alone. */
  const createStatements = (maxBatch: number | (() => number)) =>
    new GroupCommit<number, Chunk, boolean>({
      ...bounds,
      maxBatch,
      async commit(_shard, chunks) {
        const isPersisted = await gate.run(() => upsert(chunks)).then(() => true, isolate);
        if (isPersisted) onPersisted(chunks);
        return chunks.map(() => isPersisted);
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
   * The chunks of a statement come here together, so there is one call for each; the next statement need not wait for it. Nor
   * need other shards: the store of one may be away for good.
   */
  const settlements = new GroupCommit<number, Chunk, void>({
    ...bounds,
    maxBatch: maxRows,
    maxInFlight: Number.POSITIVE_INFINITY,
    maxInFlightPerLane: maxInFlight,
    async commit(shard, chunks) {
      await withTimeout(settle(shard, chunks), SETTLE_TIMEOUT_MS).catch((error) => {
        logger.warn({ err: error }, 'claims could not be settled; they are cleared away later');
      });
      return chunks.map(() => undefined);
    },
  });

  function persistWithOthers(shard: number, chunk: Chunk, priority: number): Promise<boolean> {
    if (priority > 0) return statements.ofLongBacklogs.run(shard, chunk);
    shortCameAt = performance.now();
    return statements.ofShortBacklogs.run(shard, chunk);
  }

  /** @throws Postponed for entries whose rows are held, and what entries failed with, when the others are done */
  async function persistSuspect(chunk: Chunk, context: JobContext): Promise<void> {
    const { shard, jobId, start } = context;
    const key = `${shard}:${jobId}`;
    const done = doneOf.get(key) ?? new Set();
    const left = chunk.entries.filter((entry) => !done.has(keyOf(entry)));
    const unfinished = await persistAlone({ ...chunk, entries: left }, context);
    const waiting = new Set(unfinished.entries);
    const entries = left.filter((entry) => !waiting.has(entry));
    if (entries.length > 0) await settlements.run(shard, { ...chunk, entries });
    if (waiting.size === 0) return void doneOf.delete(key);
    doneOf.set(key, new Set([...done, ...entries.map(keyOf)]));
    throw (
      unfinished.error ??
      new Postponed('another session holds rows', { delayMs: retryDelayMs(start), reason: 'blocked' })
    );
  }

  return async (chunk, context) => {
    const { shard, jobId, start, priority } = context;
    const mayGoWithOthers = start === 1 && !heldCustomers.isAbout(chunk);
    if (mayGoWithOthers && (await persistWithOthers(shard, chunk, priority))) await settlements.run(shard, chunk);
    else await persistSuspect(chunk, context);
    logger.debug({ jobId, projectId: chunk.projectId, entries: chunk.entries.length }, 'chunk done');
  };
}

/** Whatever a statement failed with, if it is not an outage, some of its entries are to blame. */
function isolate(error: unknown): false {
  if (error instanceof Postponed) throw error;
  return false;
}

/** Of two files that are imported as of the same time, lines with the same number have the same version. */
const keyOf = ({ customerId, version }: CustomerEntry) => `${version}:${customerId}`;
