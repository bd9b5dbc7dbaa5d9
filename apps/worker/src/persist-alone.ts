import { type CustomerEntry, GroupCommit } from '@opm/core';
import { type Chunk, type JobContext, Postponed } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { type DeadLetters, failureKindOf } from '@opm/store';
import type { HeldCustomers } from './held-customers.js';
import { isRefusal, type Refused, reasonOf, toDeadLetters, toSingles } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { UpsertChunks } from './upsert-chunks.js';

/** Entries that are neither rows nor dead letters yet; without an error, because another session holds their rows. */
export type Unfinished = { entries: CustomerEntry[]; error: Error | undefined };

/** Resolves when each entry of the chunk has its effect in PostgreSQL or is a dead letter, but for the unfinished ones. */
export type PersistAlone = (chunk: Chunk, context: JobContext) => Promise<Unfinished>;

export type PersistAloneDeps = {
  gate: StoreGate;
  heldCustomers: HeldCustomers;
  /** Hardly waits for a row that another session holds. */
  upsertAlone: UpsertChunks;
  addDeadLetters: DeadLetters['add'];
  /** From this attempt of a job on, entries that fail by themselves become dead letters, whatever the error. */
  maxAttempts: number;
  onPersisted: (chunks: Chunk[]) => void;
  onDeadLetter: (refused: Refused) => void;
  logger: Logger;
};

/** For so long it is looked for the rows that are held; the entries that were not tried by then wait, too. */
const MAX_SEARCH_MS = 1_000;
/** From so many tries on that met a row held, it is no coincidence. */
const TRIES_TO_WARN = 4;

type Suspect = { chunk: Chunk; attempt: number };

const isBlocked = (error: unknown) => failureKindOf(error) === 'blocked';

/** For what has failed before, is to blame, or is about a row that is held: one at a time, so that nobody waits behind it. */
export function createPersistAlone(deps: PersistAloneDeps): PersistAlone {
  const { gate, heldCustomers, upsertAlone, addDeadLetters, maxAttempts, onPersisted, onDeadLetter, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const warnHeld = createSparseWarning(logger, 'entries wait for rows that another session holds: see pg_locks');

  const suspects = new GroupCommit<string, Suspect, Unfinished>({
    commit: async (_jobId, some) => Promise.all(some.map(persist)),
    maxBatch: 1,
    maxInFlight: 1,
  });

  async function persist({ chunk: { projectId, entries }, attempt }: Suspect): Promise<Unfinished> {
    const waiting = new Set(entries.filter(({ customerId }) => heldCustomers.mustWait(projectId, customerId)));
    const due = entries.filter((entry) => !waiting.has(entry));
    if (due.length === 0) return { entries, error: undefined };
    const failed = await upsertOrBisect([{ projectId, entries: due }], performance.now() + MAX_SEARCH_MS);
    // An outage that has begun meanwhile is nobody's fault.
    if (failed.some(({ error }) => failureKindOf(error) === 'outage')) await gate.check();
    const isLost = ({ error }: Refused) => isRefusal(error) || (attempt >= maxAttempts && !isBlocked(error));
    const lost = failed.filter(isLost);
    if (lost.length > 0) await bury(lost);
    const left = failed.filter((one) => !isLost(one));
    return {
      entries: [...waiting, ...left.flatMap(({ chunk }) => chunk.entries)],
      error: left.find(({ error }) => !isBlocked(error))?.error,
    };
  }

  /** Entries that fail, or whose rows are held, are halved until these stand alone; the others are persisted. Results in those that were not. */
  async function upsertOrBisect(chunks: Chunk[], searchUntil: number): Promise<Refused[]> {
    try {
      await gate.run(() => upsertAlone(chunks));
      for (const { projectId, entries } of chunks) heldCustomers.onFree(projectId, entries);
      onPersisted(chunks);
      return [];
    } catch (cause) {
      if (cause instanceof Postponed) throw cause;
      const error = cause as Error;
      const singles = toSingles(chunks);
      const [only, ...others] = singles;
      if (only && others.length === 0) {
        note(only, error);
        return [{ chunk: only, error }];
      }
      if (isBlocked(error) && performance.now() > searchUntil) return singles.map((chunk) => ({ chunk, error }));
      const middle = singles.length >> 1;
      return [
        ...(await upsertOrBisect(singles.slice(0, middle), searchUntil)),
        ...(await upsertOrBisect(singles.slice(middle), searchUntil)),
      ];
    }
  }

  function note({ projectId, entries: [entry] }: Chunk, error: Error): void {
    if (!entry || isRefusal(error)) return;
    if (!isBlocked(error)) heldCustomers.onFailed(projectId, entry.customerId);
    else if (heldCustomers.onHeld(projectId, entry.customerId) >= TRIES_TO_WARN) warnHeld(error);
  }

  async function bury(refused: Refused[]): Promise<void> {
    await gate.run(() => addDeadLetters(refused.flatMap(toDeadLetters)));
    for (const letter of refused) onDeadLetter(letter);
    for (const { error } of refused) warnRefused(new Error(`reason: ${reasonOf(error)}`));
  }

  return (chunk, { jobId, attempt }) => suspects.run(jobId, { chunk, attempt });
}
