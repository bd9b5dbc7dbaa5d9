import { GroupCommit, withTimeout } from '@opm/core';
import { type Chunk, type ChunkEntry, type EntryWorker, type JobContext, Postponed, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';
import { createIsolate, type IsolateDeps, mostTemporary, NOTHING, type Unfinished } from './isolate.js';
import { createQuarantine, divide, without } from './quarantine.js';

/**
 * Resolves when every entry of the chunk is persisted or a dead letter. Idempotent.
 * @throws Postponed if entries must wait, or the error of an entry that failed in isolation
 */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = Omit<IsolateDeps, 'quarantine'> & {
  settle: EntryWorker['settle'];
  /** Maximum statements in flight, separately for short and for long backlogs. */
  maxInFlight: number;
};

/**
 * Capacity reserved for short backlogs: for RESERVE_MS after a job of a short backlog, statements of long backlogs have
 * at most `maxRows / RESERVE_DIVISOR` entries.
 */
const RESERVE_MS = 250;
const RESERVE_DIVISOR = 4;
/** Maintenance removes the claims that are not settled within this time. */
const SETTLE_TIMEOUT_MS = 5_000;
/** Maximum unfinished entries of postponed jobs that the worker remembers. */
const MAX_UNFINISHED = 200_000;

/** Combines the chunks of concurrent jobs into one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { gate, upsert, settle, maxRows, maxInFlight, onPersisted, logger } = deps;

  const quarantine = createQuarantine();
  const isolate = createIsolate({ ...deps, quarantine });
  /** The unfinished entries of each postponed job. All its other entries are done. */
  const unfinishedOf = new LRUCache<string, Set<string>>({
    maxSize: MAX_UNFINISHED,
    sizeCalculation: ({ size }) => size,
  });

  let shortBacklogAt = Number.NEGATIVE_INFINITY;
  const isReserved = () => performance.now() - shortBacklogAt < RESERVE_MS;

  /**
   * Each call returns the job's entries that are not persisted: all if the statement fails, otherwise those quarantined
   * while the job waited.
   */
  const createStatements = (maxBatch: number | (() => number)) =>
    new GroupCommit<number, ChunkEntry[], ChunkEntry[]>({
      sizeOf: ({ length }) => length,
      maxInFlight,
      maxBatch,
      async commit(_partition, jobs) {
        const divided = jobs.map((own) => divide(own, quarantine.isQuarantined));
        const left = divided.map(([quarantined]) => quarantined);
        const persistable = divided.flatMap(([, others]) => others);
        if (persistable.length === 0) return left; // an empty `gate.run` would count as a successful write
        try {
          await gate.run(() => upsert(persistable));
        } catch (error) {
          if (error instanceof Postponed) throw error;
          return jobs; // some of their entries are the cause
        }
        onPersisted(persistable);
        return left;
      },
    });

  /**
   * Short and long backlogs have separate statements, so a job of a short backlog does not queue behind long ones. It
   * still waits for one of their statements if their jobs occupy all of the worker's slots, and for the CPU. Smaller
   * statements shorten both waits.
   */
  const statements = {
    ofShortBacklogs: createStatements(maxRows),
    ofLongBacklogs: createStatements(() => (isReserved() ? Math.ceil(maxRows / RESERVE_DIVISOR) : maxRows)),
  };

  /**
   * Settles the jobs of one statement with one call per shard. Neither the next statement nor other shards wait for it:
   * the Redis master of one shard may stay down.
   */
  const settlements = new GroupCommit<number, { jobId: string; entries: ChunkEntry[] }, void>({
    sizeOf: ({ entries }) => entries.length,
    maxBatch: maxRows,
    maxInFlight: Number.POSITIVE_INFINITY,
    maxInFlightPerPartition: maxInFlight,
    async commit(shard, jobs) {
      const persisted = jobs.flatMap(({ entries }) => entries);
      await withTimeout(settle(shard, persisted), SETTLE_TIMEOUT_MS).catch((error) => {
        const first = { jobId: jobs[0]?.jobId, jobs: jobs.length };
        logger.warn({ ...first, err: error }, 'could not settle claims; maintenance removes them later');
      });
      return jobs.map(() => undefined);
    },
  });

  /** @returns the entries that remain unfinished */
  async function persistShared(entries: ChunkEntry[], context: JobContext): Promise<Unfinished> {
    if (entries.length === 0) return NOTHING;
    const { shard, jobId, priority } = context;
    if (priority === 0) shortBacklogAt = performance.now();
    // Erasures cost more statements. The ingress puts them into separate chunks; a negative partition separates them
    // here.
    const partition = entries.some(({ erase }) => erase) ? -1 - shard : shard;
    const committed = statements[priority > 0 ? 'ofLongBacklogs' : 'ofShortBacklogs'].run(partition, entries);
    const left = await committed.catch((error: Error) => error);
    if (left instanceof Error) return { entries, error: left };
    const persisted = without(entries, left);
    if (persisted.length > 0) await settlements.run(shard, { jobId, entries: persisted });
    return persistIsolated(left, context);
  }

  /** Persists quarantined entries in isolation. @returns the entries that remain unfinished */
  async function persistIsolated(entries: ChunkEntry[], context: JobContext): Promise<Unfinished> {
    if (entries.length === 0) return NOTHING;
    const unfinished = await isolate(entries, context);
    const finished = without(entries, unfinished.entries);
    if (finished.length > 0) await settlements.run(context.shard, { jobId: context.jobId, entries: finished });
    return unfinished;
  }

  return async ({ entries }, context) => {
    const { shard, jobId, start } = context;
    const key = `${shard}:${jobId}`;
    const known = unfinishedOf.get(key);
    const due = known ? entries.filter((entry) => known.has(keyOf(entry))) : entries;
    // A job that was started before runs in isolation: its last start failed, was postponed or stalled.
    const [isolated, shared] = start === 1 ? divide(due, quarantine.isQuarantined) : [due, []];
    const both = await Promise.all([persistShared(shared, context), persistIsolated(isolated, context)]);
    const left = both.flatMap((unfinished) => unfinished.entries);
    if (left.length === 0) {
      unfinishedOf.delete(key);
      logger.debug({ jobId, entries: entries.length }, 'chunk done');
      return;
    }
    unfinishedOf.set(key, new Set(left.map(keyOf)));
    throw (
      mostTemporary(both.map(({ error }) => error)) ??
      new Postponed('another session has locked rows', { delayMs: retryDelayMs(start), reason: 'blocked' })
    );
  };
}

/** A version is not unique: two files imported with the same time give equal line numbers the same version. */
const keyOf = ({ projectId, customerId, version }: ChunkEntry) => `${version}:${projectId}:${customerId}`;
