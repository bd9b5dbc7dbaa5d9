import { GroupCommit } from '@opm/core';
import { type ChunkEntry, type JobContext, Postponed } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { type DeadLetters, failureKindOf } from '@opm/store';
import { isRefusal, type Refused, reasonOf, toDeadLetter } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { Suspects } from './suspects.js';
import type { UpsertEntries } from './upsert-entries.js';

/** Entries that are neither rows nor dead letters yet; without an error, because another session holds their rows. */
export type Unfinished = { entries: ChunkEntry[]; error: Error | undefined };

/** Resolves when each of the job's entries has its effect in PostgreSQL or is a dead letter, but for the unfinished ones. */
export type PersistAlone = (entries: ChunkEntry[], context: JobContext) => Promise<Unfinished>;

export type PersistAloneDeps = {
  gate: StoreGate;
  suspects: Suspects;
  /** Hardly waits for a row that another session holds. */
  upsertAlone: UpsertEntries;
  addDeadLetters: DeadLetters['add'];
  /** From this attempt of a job on, entries that fail by themselves become dead letters, whatever the error. */
  maxAttempts: number;
  onPersisted: (entries: ChunkEntry[]) => void;
  onDeadLetter: (refused: Refused) => void;
  logger: Logger;
};

/** For so long it is looked for the rows that are held; the entries that were not tried by then wait, too. */
const MAX_SEARCH_MS = 1_000;
/** From so many tries on that met a row held, it is no coincidence. */
const TRIES_TO_WARN = 4;

type Job = { entries: ChunkEntry[]; attempt: number };

const isBlocked = (error: unknown) => failureKindOf(error) === 'blocked';

/** For what has failed before, is to blame, or is about a row that is held: one at a time, so that nobody waits behind it. */
export function createPersistAlone(deps: PersistAloneDeps): PersistAlone {
  const { gate, suspects, upsertAlone, addDeadLetters, maxAttempts, onPersisted, onDeadLetter, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const warnHeld = createSparseWarning(logger, 'entries wait for rows that another session holds: see pg_locks');

  const jobs = new GroupCommit<string, Job, Unfinished>({
    commit: async (_jobId, some) => Promise.all(some.map(persist)),
    maxBatch: 1,
    maxInFlight: 1,
  });

  async function persist({ entries, attempt }: Job): Promise<Unfinished> {
    const waiting = new Set(entries.filter(suspects.mustWait));
    // By project, so that halving parts projects from one another first.
    const due = entries.filter((entry) => !waiting.has(entry)).sort((a, b) => a.projectId - b.projectId);
    const searchUntil = performance.now() + MAX_SEARCH_MS;
    const failed: Refused[] = [];
    for (const part of [due.filter((entry) => !suspects.isHeld(entry)), due.filter(suspects.isHeld)]) {
      if (part.length > 0) failed.push(...(await upsertOrBisect(part, searchUntil)));
    }
    // An outage that has begun meanwhile is nobody's fault.
    if (failed.some(({ error }) => failureKindOf(error) === 'outage')) await gate.check();
    const isLost = ({ error }: Refused) => isRefusal(error) || (attempt >= maxAttempts && !isBlocked(error));
    const lost = failed.filter(isLost);
    if (lost.length > 0) await bury(lost);
    const left = failed.filter((one) => !isLost(one));
    return {
      entries: [...waiting, ...left.map(({ entry }) => entry)],
      error: left.find(({ error }) => !isBlocked(error))?.error,
    };
  }

  /** Entries that fail, or whose rows are held, are halved until these stand alone; the others are persisted. Results in those that were not. */
  async function upsertOrBisect(entries: ChunkEntry[], searchUntil: number): Promise<Refused[]> {
    try {
      await gate.run(() => upsertAlone(entries));
      suspects.onFree(entries);
      onPersisted(entries);
      return [];
    } catch (cause) {
      if (cause instanceof Postponed) throw cause;
      const error = cause as Error;
      const [only, ...others] = entries;
      if (only && others.length === 0) {
        note(only, error);
        return [{ entry: only, error }];
      }
      if (isBlocked(error) && performance.now() > searchUntil) return entries.map((entry) => ({ entry, error }));
      const middle = entries.length >> 1;
      return [
        ...(await upsertOrBisect(entries.slice(0, middle), searchUntil)),
        ...(await upsertOrBisect(entries.slice(middle), searchUntil)),
      ];
    }
  }

  function note(entry: ChunkEntry, error: Error): void {
    if (isRefusal(error)) suspects.onRefused(entry);
    else if (!isBlocked(error)) suspects.onFailed(entry);
    else if (suspects.onHeld(entry) >= TRIES_TO_WARN) warnHeld(error);
  }

  async function bury(refused: Refused[]): Promise<void> {
    await gate.run(() => addDeadLetters(refused.map(toDeadLetter)));
    for (const letter of refused) onDeadLetter(letter);
    for (const { error } of refused) warnRefused(new Error(`reason: ${reasonOf(error)}`));
  }

  return (entries, { jobId, attempt }) => jobs.run(jobId, { entries, attempt });
}
