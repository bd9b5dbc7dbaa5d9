import { GroupCommit } from '@opm/core';
import { type ChunkEntry, type JobContext, Postponed } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { type DeadLetters, failureKindOf } from '@opm/store';
import { isRefusal, type Refused, reasonOf, toDeadLetter } from './refused.js';
import type { StoreGate } from './store-gate.js';
import type { Suspects } from './suspects.js';
import type { UpsertEach } from './upsert-entries.js';

/** Entries that are neither rows nor dead letters yet; without an error, because another session holds their rows. */
export type Unfinished = { entries: ChunkEntry[]; error: Error | undefined };

/** Resolves when each of the job's entries has its effect in PostgreSQL or is a dead letter, but for the unfinished ones. */
export type PersistAlone = (entries: ChunkEntry[], context: Pick<JobContext, 'attempt'>) => Promise<Unfinished>;

export type PersistAloneDeps = {
  gate: StoreGate;
  suspects: Suspects;
  /** Hardly waits for a row that another session holds. */
  upsertEach: UpsertEach;
  addDeadLetters: DeadLetters['add'];
  /** Entries in one statement at most. */
  maxRows: number;
  /** From this attempt of a job on, entries that fail by themselves become dead letters, whatever the error. */
  maxAttempts: number;
  onPersisted: (entries: ChunkEntry[]) => void;
  onDeadLetter: (refused: Refused) => void;
  logger: Logger;
};

/** Statements of entries that go alone, each of which needs a connection. */
export const MAX_ALONE_IN_FLIGHT = 2;
/** For so long it is looked for the rows of a project that are held; its entries that were not tried by then wait, too. */
const MAX_SEARCH_MS = 1_000;
/** From so many tries on that met a row held, it is no coincidence. */
const TRIES_TO_WARN = 4;

type Job = { entries: ChunkEntry[]; attempt: number };
type Failed = { entries: ChunkEntry[]; error: Error };

const isBlocked = (error: unknown) => failureKindOf(error) === 'blocked';

/**
 * For what has failed before, is to blame, or is about a row that is held: each customer's entries by themselves, so that one
 * that fails leaves the others as they are. One statement at a time, for all jobs that wait, and one for rows that may be held.
 */
export function createPersistAlone(deps: PersistAloneDeps): PersistAlone {
  const { gate, suspects, upsertEach, addDeadLetters, maxRows, maxAttempts, onPersisted, onDeadLetter, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const warnHeld = createSparseWarning(logger, 'entries wait for rows that another session holds: see pg_locks');

  /** What may wait for rows keeps nothing else waiting. */
  const jobs = new GroupCommit<'held' | 'others', Job, Unfinished>({
    commit: (_, some) => persist(some),
    sizeOf: ({ entries }) => entries.length,
    maxBatch: maxRows,
    maxInFlight: MAX_ALONE_IN_FLIGHT,
    maxInFlightPerLane: 1,
  });

  async function persist(some: Job[]): Promise<Unfinished[]> {
    const all = some.flatMap(({ entries }) => entries);
    const waiting = new Set(all.filter(suspects.mustWait));
    const due = all.filter((entry) => !waiting.has(entry));
    suspects.onTry(due);
    const refused = await persistEach(due, performance.now() + MAX_SEARCH_MS);
    const failed = new Map(refused.map(({ entry, error }) => [entry, error]));
    // An outage that has begun meanwhile is nobody's fault.
    if ([...failed.values()].some((error) => failureKindOf(error) === 'outage')) await gate.check();
    const lost = some.flatMap(({ entries, attempt }) => entries.flatMap((entry) => toLost(entry, attempt, failed)));
    const error = lost.length > 0 ? await bury(lost).catch(toFailure) : undefined;
    for (const { entry } of lost) {
      if (error) failed.set(entry, error);
      else failed.delete(entry);
    }
    return some.map(({ entries }) => {
      const errors = entries.flatMap((entry) => failed.get(entry) ?? []);
      return {
        entries: entries.filter((entry) => waiting.has(entry) || failed.has(entry)),
        error: errors.find((error) => !isBlocked(error)),
      };
    });
  }

  function toLost(entry: ChunkEntry, attempt: number, failed: Map<ChunkEntry, Error>): Refused[] {
    const error = failed.get(entry);
    const isLost = error && (isRefusal(error) || (attempt >= maxAttempts && !isBlocked(error)));
    return isLost ? [{ entry, error }] : [];
  }

  /** @returns the entries that were not persisted */
  async function persistEach(entries: ChunkEntry[], searchUntil: number): Promise<Refused[]> {
    if (entries.length === 0) return [];
    const tried = await gate.run(() => upsertEach(entries)).catch(toFailure);
    if (tried instanceof Error) return halve([{ entries, error: tried }], searchUntil);
    const { persisted, failed, untried } = tried;
    suspects.onFree(persisted);
    onPersisted(persisted);
    const refused = await halve(failed, searchUntil);
    const [held] = failed.filter(({ error }) => isBlocked(error));
    const isOver = held && performance.now() > searchUntil;
    const isLeft = ({ projectId }: ChunkEntry) => isOver && projectId === held.entries[0]?.projectId;
    if (isOver) refused.push(...refuseAll({ entries: untried.filter(isLeft), error: held.error }));
    refused.push(
      ...(await persistEach(
        untried.filter((entry) => !isLeft(entry)),
        searchUntil,
      )),
    );
    return refused;
  }

  /** What failed together is halved until the guilty entries stand alone. */
  async function halve(failed: Failed[], searchUntil: number): Promise<Refused[]> {
    const isFinal = ({ entries, error }: Failed) =>
      entries.length === 1 || (isBlocked(error) && isOneCustomer(entries));
    const final = failed.filter(isFinal);
    for (const { entries, error } of final) note(entries[0] as ChunkEntry, error);
    const open = failed.filter((one) => !final.includes(one)).map(({ entries }) => entries);
    const halves = [
      open.flatMap((entries) => entries.slice(0, entries.length >> 1)),
      open.flatMap((entries) => entries.slice(entries.length >> 1)),
    ];
    const refused = final.flatMap(refuseAll);
    for (const half of halves) refused.push(...(await persistEach(half, searchUntil)));
    return refused;
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

  return async (entries, { attempt }) => {
    const waiting = entries.filter(suspects.mustWait); // not for its turn, too, or it would keep a place of its worker
    const due = entries.filter((entry) => !waiting.includes(entry));
    const held = due.filter(suspects.isHeld);
    const others = due.filter((entry) => !held.includes(entry));
    const run = async (lane: 'held' | 'others', some: ChunkEntry[]): Promise<Unfinished> =>
      some.length > 0 ? jobs.run(lane, { entries: some, attempt }) : { entries: [], error: undefined };
    const [ofHeld, ofOthers] = await Promise.all([run('held', held), run('others', others)]);
    return {
      entries: [...waiting, ...ofHeld.entries, ...ofOthers.entries],
      error: ofOthers.error ?? ofHeld.error,
    };
  };
}

const refuseAll = ({ entries, error }: Failed): Refused[] => entries.map((entry) => ({ entry, error }));

const isOneCustomer = ([first, ...others]: ChunkEntry[]) =>
  others.every((other) => other.projectId === first?.projectId && other.customerId === first.customerId);

/** An outage is no failure of these entries. */
function toFailure(error: Error): Error {
  if (error instanceof Postponed) throw error;
  return error;
}
