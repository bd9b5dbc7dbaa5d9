import { type CustomerEntry, GroupCommit } from '@opm/core';
import type { Chunk, JobContext } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { type DeadLetters, failureKindOf } from '@opm/store';
import type { HeldCustomers } from './held-customers.js';
import { isRefusal, type Refused, reasonOf, toDeadLetters, toSingles } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { UpsertChunks } from './upsert-chunks.js';

/**
 * Resolves when each entry of the chunk has its effect in PostgreSQL or is a dead letter, with those for which that is not so
 * because another session holds their rows.
 */
export type PersistAlone = (chunk: Chunk, context: JobContext) => Promise<CustomerEntry[]>;

export type PersistAloneDeps = {
  gate: StoreGate;
  heldCustomers: HeldCustomers;
  /** Hardly waits for a row that another session holds. */
  upsertAlone: UpsertChunks;
  addDeadLetters: DeadLetters['add'];
  /** From this attempt of a job on, entries are blamed for errors of any kind. */
  maxAttempts: number;
  onPersisted: (chunks: Chunk[]) => void;
  onDeadLetter: (refused: Refused) => void;
  logger: Logger;
};

/** For so long it is looked for the rows that are held; the entries that were not tried by then wait, too. */
const MAX_SEARCH_MS = 1_000;
/** From so many tries on that met a row held, it is no coincidence. */
const TRIES_TO_WARN = 4;

type Suspect = { chunk: Chunk; attempt: number; start: number };
type Blame = (error: unknown) => boolean;

const blamesAnything: Blame = (error) => !['outage', 'blocked'].includes(failureKindOf(error));
const isBlocked = (error: unknown) => failureKindOf(error) === 'blocked';

/** For what has failed before, is to blame, or is about a row that is held: one at a time, so that nobody waits behind it. */
export function createPersistAlone(deps: PersistAloneDeps): PersistAlone {
  const { gate, heldCustomers, upsertAlone, addDeadLetters, maxAttempts, onPersisted, onDeadLetter, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const warnHeld = createSparseWarning(logger, 'entries wait for rows that another session holds: see pg_locks');

  const suspects = new GroupCommit<string, Suspect, CustomerEntry[]>({
    async commit(_jobId, [suspect]) {
      return [suspect ? await persist(suspect) : []];
    },
    maxBatch: 1,
    maxInFlight: 1,
  });

  async function persist({ chunk: { projectId, entries }, attempt, start }: Suspect): Promise<CustomerEntry[]> {
    const waiting = new Set(entries.filter(({ customerId }) => heldCustomers.mustWait(projectId, customerId)));
    const due = entries.filter((entry) => !waiting.has(entry));
    if (due.length === 0) return [...waiting];
    return gate.runAlone(start, async () => {
      const blame = attempt >= maxAttempts ? blamesAnything : isRefusal;
      const failed = await upsertOrBisect([{ projectId, entries: due }], blame, performance.now() + MAX_SEARCH_MS);
      const refused = failed.filter(({ error }) => !isBlocked(error));
      if (refused.length > 0) await bury(refused);
      const held = failed.filter(({ error }) => isBlocked(error));
      return [...waiting, ...held.flatMap(({ chunk }) => chunk.entries)];
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

  return (chunk, { jobId, attempt, start }) => suspects.run(jobId, { chunk, attempt, start });
}
