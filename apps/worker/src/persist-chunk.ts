import { GroupCommit } from '@opm/core';
import type { Chunk, EntryWorker, JobContext } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { type DeadLetters, failureKindOf } from '@opm/store';
import { type Refused, reasonOf, toDeadLetters, toSingles } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { UpsertChunks } from './upsert-chunks.js';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: JobContext) => Promise<void>;

export type PersistChunkDeps = {
  gate: StoreGate;
  upsert: UpsertChunks;
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

type Blame = (error: unknown) => boolean;

const blamesData: Blame = (error) => failureKindOf(error) === 'refusal';
const blamesAnything: Blame = (error) => failureKindOf(error) !== 'outage';

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { gate, upsert, addDeadLetters, settle, maxRows, maxInFlight, maxAttempts, onPersisted, onDeadLetter, logger } =
    deps;

  const bounds = { sizeOf: ({ entries }: Chunk) => entries.length, maxBatch: maxRows, maxInFlight };

  const statements = new GroupCommit<number, Chunk, void>({
    ...bounds,
    async commit(_shard, chunks) {
      await gate(() => persistChunks(chunks, blamesData));
      return chunks.map(() => undefined);
    },
  });

  /** The chunks of a statement come here together, so there is one call for each; the next statement need not wait for it. */
  const settlements = new GroupCommit<number, Chunk, void>({
    ...bounds,
    async commit(shard, chunks) {
      await settle(shard, chunks).catch((error) => {
        logger.warn({ err: error }, 'claims could not be settled; they expire by themselves');
      });
      return chunks.map(() => undefined);
    },
  });

  async function persistChunks(chunks: Chunk[], blame: Blame): Promise<void> {
    const refused = await upsertOrBisect(chunks, blame);
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
    const reasons = [...new Set(refused.map(({ error }) => reasonOf(error)))];
    const projects = [...new Set(refused.map(({ chunk }) => chunk.projectId))];
    logger.error(
      { entries: refused.length, projects, reasons },
      'entries are dead letters: see `opm dead-letters list`',
    );
  }

  return async (chunk, { shard, jobId, attempt }) => {
    // A job that keeps failing goes alone, so that its neighbours do not pay for it.
    if (attempt >= maxAttempts) await gate(() => persistChunks([chunk], blamesAnything));
    else await statements.run(shard, chunk);
    await settlements.run(shard, chunk);
    logger.debug({ jobId, projectId: chunk.projectId, entries: chunk.entries.length }, 'chunk done');
  };
}
