import { GroupCommit, withTimeout } from '@opm/core';
import { type Chunk, type ChunkEntry, type EntryWorker, type JobContext, Postponed, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';
import { createPersistAlone, type PersistAloneDeps } from './persist-alone.js';
import { createSuspects } from './suspects.js';
import { groupByProject, type UpsertEntries } from './upsert-entries.js';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = Omit<PersistAloneDeps, 'suspects'> & {
  upsert: UpsertEntries;
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

  const suspects = createSuspects();
  const persistAlone = createPersistAlone({ ...deps, suspects });
  /** The entries that are done of jobs that were postponed for the others. */
  const doneOf = new LRUCache<string, Set<string>>({ max: MAX_POSTPONED });
  const bounds = { sizeOf: (entries: ChunkEntry[]) => entries.length, maxInFlight };

  let shortCameAt = Number.NEGATIVE_INFINITY;
  const isShortAbout = () => performance.now() - shortCameAt < POLITE_MS;

  /** Whether the statement was persisted; if not, its jobs go alone. */
  const createStatements = (maxBatch: number | (() => number), most = maxInFlight) =>
    new GroupCommit<number, ChunkEntry[], boolean>({
      sizeOf: bounds.sizeOf,
      maxInFlight: most,
      maxBatch,
      async commit(_shard, jobs) {
        const entries = jobs.flat();
        const isPersisted = await gate.run(() => upsert(entries)).then(() => true, isolate);
        if (isPersisted) onPersisted(entries);
        return jobs.map(() => isPersisted);
      },
    });

  /**
   * A job of a short backlog need not wait for its turn behind the statements of long ones. It waits for one of them to end
   * where all jobs that the worker may have are theirs, and for the processor: both take less long where they are small.
   */
  const statements = {
    ofShortBacklogs: createStatements(maxRows),
    ofLongBacklogs: createStatements(() => (isShortAbout() ? Math.ceil(maxRows / POLITE_DIVISOR) : maxRows)),
    ofSuspects: createStatements(maxRows, 1),
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

  /** @returns those that were persisted, and settled: all or none */
  async function persistWithOthers(entries: ChunkEntry[], { shard, priority }: JobContext): Promise<ChunkEntry[]> {
    if (entries.length === 0) return [];
    if (priority === 0) shortCameAt = performance.now();
    const isPersisted = await statements[priority > 0 ? 'ofLongBacklogs' : 'ofShortBacklogs'].run(shard, entries);
    if (isPersisted) await settlements.run(shard, entries);
    return isPersisted ? entries : [];
  }

  /** The same for those of projects that have sent what the database refuses, each with its own of all jobs. */
  async function persistByProject(entries: ChunkEntry[], { shard }: JobContext): Promise<ChunkEntry[]> {
    const persisting = [...groupByProject(entries)].map(async ([projectId, own]) =>
      (await statements.ofSuspects.run(projectId, own)) ? own : [],
    );
    const persisted = (await Promise.all(persisting)).flat();
    if (persisted.length > 0) await settlements.run(shard, persisted);
    return persisted;
  }

  /** @throws Postponed for entries whose rows are held, and what entries failed with, when the others are done */
  async function persistSuspects(entries: ChunkEntry[], done: Set<string>, context: JobContext): Promise<void> {
    const { shard, jobId, start } = context;
    const unfinished = await persistAlone(entries, context);
    const waiting = new Set(unfinished.entries);
    const finished = entries.filter((entry) => !waiting.has(entry));
    if (finished.length > 0) await settlements.run(shard, finished);
    const key = `${shard}:${jobId}`;
    if (waiting.size === 0) return void doneOf.delete(key);
    doneOf.set(key, new Set([...done, ...finished.map(keyOf)]));
    throw (
      unfinished.error ??
      new Postponed('another session holds rows', { delayMs: retryDelayMs(start), reason: 'blocked' })
    );
  }

  return async ({ entries }, context) => {
    const { shard, jobId, start } = context;
    const key = `${shard}:${jobId}`;
    const done = new Set(doneOf.get(key));
    // A job that was begun before goes alone: something was wrong with it.
    if (start === 1) {
      const able = entries.filter((entry) => !suspects.isHeld(entry));
      const sound = able.filter((entry) => !suspects.isOfSuspectProject(entry));
      const others = able.length > sound.length ? able.filter(suspects.isOfSuspectProject) : [];
      const both = await Promise.all([persistWithOthers(sound, context), persistByProject(others, context)]);
      for (const entry of both.flat()) done.add(keyOf(entry));
    }
    const left = entries.filter((entry) => !done.has(keyOf(entry)));
    if (left.length > 0) {
      if (done.size > 0) doneOf.set(key, done);
      await persistSuspects(left, done, context);
    }
    logger.debug({ jobId, entries: entries.length }, 'chunk done');
  };
}

/** Whatever a statement failed with, if it is not an outage, some of its entries are to blame. */
function isolate(error: unknown): false {
  if (error instanceof Postponed) throw error;
  return false;
}

/** Of two files that are imported as of the same time, lines with the same number have the same version. */
const keyOf = ({ projectId, customerId, version }: ChunkEntry) => `${version}:${projectId}:${customerId}`;
