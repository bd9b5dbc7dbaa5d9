import { GroupCommit } from '@opm/core';
import { type Chunk, type EntryWorker, type JobContext, Postponed, retryDelayMs } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { type Customers, type DeadLetters, failureKindOf } from '@opm/store';
import { createHeldCustomers } from './held-customers.js';
import { type Refused, reasonOf, toDeadLetters, toSingles } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { UpsertChunks } from './upsert-chunks.js';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = {
  gate: StoreGate;
  upsert: UpsertChunks;
  findHeld: Customers['findHeld'];
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

type Suspect = { chunk: Chunk; attempt: number; start: number };
type Blame = (error: unknown) => boolean;

const blamesData: Blame = (error) => failureKindOf(error) === 'refusal';
const blamesAnything: Blame = (error) => !['outage', 'blocked'].includes(failureKindOf(error));

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { gate, upsert, findHeld, addDeadLetters, settle, maxRows, maxInFlight, maxAttempts } = deps;
  const { onPersisted, onDeadLetter, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const heldCustomers = createHeldCustomers();
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

  /** What has failed before, is being halved, or may wait for a row, goes alone and one at a time, so that nobody waits behind it. */
  const suspects = new GroupCommit<string, Suspect, void>({
    async commit(_jobId, [suspect]) {
      if (suspect) await gate.runAlone(suspect.start, () => persistAlone(suspect));
      return [undefined];
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
        logger.warn({ err: error }, 'claims could not be settled; they are swept after days');
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

  /** Entries of customers whose rows somebody holds have to wait; it is found out without waiting, and the others need not. */
  async function persistAlone({ chunk, attempt, start }: Suspect): Promise<void> {
    const held = await findHeld(
      chunk.projectId,
      chunk.entries.map(({ customerId }) => customerId),
    );
    heldCustomers.note(chunk, held);
    const free = chunk.entries.filter(({ customerId }) => !held.has(customerId));
    if (free.length > 0) await persistFree({ ...chunk, entries: free }, attempt);
    if (held.size > 0) {
      throw new Postponed('somebody holds the rows', { delayMs: retryDelayMs(start), reason: 'blocked' });
    }
  }

  async function persistFree(chunk: Chunk, attempt: number): Promise<void> {
    const refused = await upsertOrBisect([chunk], attempt >= maxAttempts ? blamesAnything : blamesData);
    if (refused.length > 0) await bury(refused);
  }

  /** Entries that are to blame are halved until the guilty ones stand alone; the others are persisted. */
  async function upsertOrBisect(chunks: Chunk[], blame: Blame): Promise<Refused[]> {
    try {
      await upsert(chunks);
      onPersisted(chunks);
      return [];
    } catch (error) {
      if (!blame(error)) throw error;
      const singles = toSingles(chunks);
      const [only, ...others] = singles;
      if (only && others.length === 0) return [{ chunk: only, error: error as Error }];
      const middle = singles.length >> 1;
      return [
        ...(await upsertOrBisect(singles.slice(0, middle), blame)),
        ...(await upsertOrBisect(singles.slice(middle), blame)),
      ];
    }
  }

  async function bury(refused: Refused[]): Promise<void> {
    await addDeadLetters(refused.flatMap(toDeadLetters));
    for (const letter of refused) onDeadLetter(letter);
    for (const { error } of refused) warnRefused(new Error(`reason: ${reasonOf(error)}`));
  }

  return async (chunk, { shard, jobId, attempt, start, priority }) => {
    const mayGoWithOthers = start === 1 && !heldCustomers.isAbout(chunk);
    const isPersisted = mayGoWithOthers && (await persistWithOthers(shard, chunk, priority));
    if (!isPersisted) await suspects.run(jobId, { chunk, attempt, start });
    await settlements.run(shard, chunk);
    logger.debug({ jobId, projectId: chunk.projectId, entries: chunk.entries.length }, 'chunk done');
  };
}
