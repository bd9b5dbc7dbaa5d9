import { type CustomerEntry, GroupCommit, type Version } from '@opm/core';
import { type Chunk, type EntryWorker, type JobContext, Postponed, retryDelayMs } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { type DeadLetters, failureKindOf } from '@opm/store';
import { LRUCache } from 'lru-cache';
import { createHeldCustomers } from './held-customers.js';
import { type Refused, reasonOf, toDeadLetters, toSingles } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { UpsertChunks } from './upsert-chunks.js';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = {
  gate: StoreGate;
  upsert: UpsertChunks;
  /** The same, but waits for no row that another session holds. */
  upsertAlone: UpsertChunks;
  addDeadLetters: DeadLetters['add'];
  settle: EntryWorker['settle'];
  /** Entries in one statement at most. */
  maxRows: number;
  /** Statements under way at the same time. */
  maxInFlight: number;
  /** From this attempt of a job on, entries are blamed for errors of any kind. */
  maxAttempts: number;
  onPersisted: (chunks: Chunk[]) => void;
  onDeadLetter: (refused: Refused) => void;
  logger: Logger;
};

/** For so long after a job of a short backlog the statements of long ones are small, and so much smaller than others. */
const POLITE_MS = 250;
const POLITE_DIVISOR = 4;

/** For so long it is looked for the rows that are held; the entries that were not tried by then wait, too. */
const MAX_SEARCH_MS = 1_000;
/** From so many tries on that met a row held, it is no coincidence. */
const TRIES_TO_WARN = 4;
const MAX_POSTPONED = 1_000;

type Suspect = { chunk: Chunk; attempt: number; start: number };
type Blame = (error: unknown) => boolean;

const blamesData: Blame = (error) => failureKindOf(error) === 'refusal';
const blamesAnything: Blame = (error) => !['outage', 'blocked'].includes(failureKindOf(error));
const isBlocked = (error: unknown) => failureKindOf(error) === 'blocked';

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { gate, upsert, upsertAlone, addDeadLetters, settle, maxRows, maxInFlight, maxAttempts } = deps;
  const { onPersisted, onDeadLetter, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const warnHeld = createSparseWarning(logger, 'entries wait for rows that another session holds: see pg_locks');
  const heldCustomers = createHeldCustomers();
  /** Versions of the entries that are done of jobs that were postponed for the others. */
  const doneOf = new LRUCache<string, Set<Version>>({ max: MAX_POSTPONED });
  const bounds = { sizeOf: ({ entries }: Chunk) => entries.length, maxInFlight };

  let shortCameAt = Number.NEGATIVE_INFINITY;
  const isShortAbout = () => performance.now() - shortCameAt < POLITE_MS;

  /** Whether the statement was persisted; if not, some of its chunks are to blame. */
  const createStatements = (maxBatch: number | (() => number)) =>
    new GroupCommit<number, Chunk, boolean>({
      ...bounds,
      maxBatch,
      async commit(_shard, chunks) {
        const isPersisted = await gate.run(() => upsertUnlessRefused(chunks));
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
   * What has failed before, is being halved, or is about a row that is held, goes alone and one at a time, so that nobody
   * waits behind it. Results in the entries that have to wait.
   */
  const suspects = new GroupCommit<string, Suspect, CustomerEntry[]>({
    async commit(_jobId, [suspect]) {
      return [suspect ? await persistAlone(suspect) : []];
    },
    maxBatch: 1,
    maxInFlight: 1,
  });

  /** The chunks of a statement come here together, so there is one call for each; the next statement need not wait for it. */
  const settlements = new GroupCommit<number, Chunk, void>({
    ...bounds,
    maxBatch: maxRows,
    async commit(shard, chunks) {
      await settle(shard, chunks).catch((error) => {
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

  async function upsertUnlessRefused(chunks: Chunk[]): Promise<boolean> {
    try {
      await upsert(chunks);
    } catch (error) {
      if (blamesData(error)) return false;
      throw error;
    }
    onPersisted(chunks);
    return true;
  }

  async function persistAlone({ chunk, attempt, start }: Suspect): Promise<CustomerEntry[]> {
    const { projectId, entries } = chunk;
    const due = entries.filter(({ customerId }) => !heldCustomers.mustWait(projectId, customerId));
    const waiting = entries.filter(({ customerId }) => heldCustomers.mustWait(projectId, customerId));
    if (due.length === 0) return waiting;
    return gate.runAlone(start, async () => {
      const blame = attempt >= maxAttempts ? blamesAnything : blamesData;
      const failed = await upsertOrBisect([{ projectId, entries: due }], blame, performance.now() + MAX_SEARCH_MS);
      const refused = failed.filter(({ error }) => !isBlocked(error));
      if (refused.length > 0) await bury(refused);
      return [
        ...waiting,
        ...failed.filter(({ error }) => isBlocked(error)).flatMap(({ chunk: { entries } }) => entries),
      ];
    });
  }

  /**
   * Entries that are to blame, or whose rows are held, are halved until these stand alone; the others are persisted. Results
   * in those that were not.
   */
  async function upsertOrBisect(chunks: Chunk[], blame: Blame, searchUntil: number): Promise<Refused[]> {
    try {
      await upsertAlone(chunks);
      for (const { projectId, entries } of chunks) heldCustomers.onFree(projectId, entries);
      onPersisted(chunks);
      return [];
    } catch (cause) {
      const error = cause as Error;
      if (!blame(error) && !isBlocked(error)) throw error;
      const singles = toSingles(chunks);
      const [only, ...others] = singles;
      if (only && others.length === 0) {
        if (isBlocked(error)) noteHeld(only, error);
        return [{ chunk: only, error }];
      }
      if (isBlocked(error) && performance.now() > searchUntil) return singles.map((chunk) => ({ chunk, error }));
      const middle = singles.length >> 1;
      return [
        ...(await upsertOrBisect(singles.slice(0, middle), blame, searchUntil)),
        ...(await upsertOrBisect(singles.slice(middle), blame, searchUntil)),
      ];
    }
  }

  function noteHeld({ projectId, entries: [entry] }: Chunk, error: Error): void {
    if (entry && heldCustomers.onHeld(projectId, entry.customerId) >= TRIES_TO_WARN) warnHeld(error);
  }

  async function bury(refused: Refused[]): Promise<void> {
    await addDeadLetters(refused.flatMap(toDeadLetters));
    for (const letter of refused) onDeadLetter(letter);
    for (const { error } of refused) warnRefused(new Error(`reason: ${reasonOf(error)}`));
  }

  /** @throws Postponed for the entries whose rows are held, when the others are done */
  async function persistAsSuspect(chunk: Chunk, { shard, jobId, attempt, start }: JobContext): Promise<void> {
    const key = `${shard}:${jobId}`;
    const done = doneOf.get(key) ?? new Set();
    const left = { ...chunk, entries: chunk.entries.filter(({ version }) => !done.has(version)) };
    const waiting = new Set(await suspects.run(key, { chunk: left, attempt, start }));
    const entries = left.entries.filter((entry) => !waiting.has(entry));
    if (entries.length > 0) await settlements.run(shard, { ...chunk, entries });
    if (waiting.size === 0) return void doneOf.delete(key);
    doneOf.set(key, new Set([...done, ...entries.map(({ version }) => version)]));
    throw new Postponed('another session holds rows', { delayMs: retryDelayMs(start), reason: 'blocked' });
  }

  return async (chunk, context) => {
    const { shard, jobId, start, priority } = context;
    const mayGoWithOthers = start === 1 && !heldCustomers.isAbout(chunk);
    if (mayGoWithOthers && (await persistWithOthers(shard, chunk, priority))) await settlements.run(shard, chunk);
    else await persistAsSuspect(chunk, context);
    logger.debug({ jobId, projectId: chunk.projectId, entries: chunk.entries.length }, 'chunk done');
  };
}
