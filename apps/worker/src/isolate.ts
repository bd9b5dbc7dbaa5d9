import { GroupCommit } from '@opm/core';
import { type ChunkEntry, type JobContext, Postponed } from '@opm/queue';
import { createThrottledWarning, type Logger } from '@opm/runtime';
import { type DeadLetter, type DeadLetters, failureKindOf, StoreError } from '@opm/store';
import type { OutageGate } from './outage-gate.js';
import { divide, type Quarantine } from './quarantine.js';
import type { UpsertEach, UpsertEntries } from './upsert-entries.js';

/**
 * Entries that are neither persisted nor dead letters. `error`: `Postponed` during an outage, or the error of one of
 * the entries; undefined if they only wait for a locked row or another try.
 */
export type Unfinished = { entries: ChunkEntry[]; error: Error | undefined };
export const NOTHING: Unfinished = { entries: [], error: undefined };

/** Persists or dead-letters a job's entries in isolation. Resolves to the entries that remain unfinished. */
type Isolate = (entries: ChunkEntry[], context: Pick<JobContext, 'attempt'>) => Promise<Unfinished>;

export type IsolateDeps = {
  gate: OutageGate;
  quarantine: Quarantine;
  upsert: UpsertEntries;
  /** Upserts with a short lock timeout (100 ms). */
  upsertEach: UpsertEach;
  addDeadLetters: DeadLetters['add'];
  /** Maximum entries per statement. */
  maxRows: number;
  /** From this attempt of its job on, a failing entry becomes a dead letter, unless its row is locked. */
  maxAttempts: number;
  onPersisted: (entries: ChunkEntry[]) => void;
  /** Called when a dead letter is stored, and not again if its job runs twice. */
  onDeadLetter: (entry: FailedEntry) => void;
  logger: Logger;
};

/** Isolation statements in flight. Each needs a connection. */
export const MAX_ISOLATED_IN_FLIGHT = 2;
/** How long to bisect for a project's locked rows, in ms. Its entries that are not tried by then are postponed. */
const MAX_SEARCH_MS = 1_000;
/** Consecutive tries that find a row locked before the worker logs a warning. */
const TRIES_TO_WARN = 4;

type Job = { entries: ChunkEntry[]; attempt: number };
type Partition = 'quarantined' | 'others';
type FailedGroup = { entries: ChunkEntry[]; error: Error };
/** The error of each entry that is unfinished; undefined if it only waits for a row. */
type Errors = Map<ChunkEntry, Error | undefined>;

const isBlocked = (error: unknown) => failureKindOf(error) === 'blocked';
const isPostponed = (error: unknown): error is Postponed => error instanceof Postponed;

/** `Postponed` if there is one: an attempt that meets an outage does not count. */
export const mostTemporary = (errors: (Error | undefined)[]): Error | undefined =>
  errors.find(isPostponed) ?? errors.find(Boolean);

/**
 * Isolates entries: persists each customer's entries separately, so a failure does not affect other customers; if the
 * cause among them is known, all others with one statement. At most one statement is in flight for quarantined
 * customers, and one for all other entries. Each statement serves all jobs that wait.
 */
export function createIsolate(deps: IsolateDeps): Isolate {
  const { gate, quarantine, upsert, upsertEach, addDeadLetters, maxRows, maxAttempts } = deps;
  const { onPersisted, onDeadLetter, logger } = deps;

  const warnDeadLetters = createThrottledWarning(logger, 'entries became dead letters: see `opm dead-letters count`');
  const warnLocked = createThrottledWarning(
    logger,
    'entries wait for rows that another session has locked: see pg_locks',
  );

  /** Customers that failed before have a partition of their own, so that their locked rows do not delay the others. */
  const isolations = new GroupCommit<Partition, Job, Unfinished>({
    commit: (_, jobs) => persist(jobs),
    sizeOf: ({ entries }) => entries.length,
    maxBatch: maxRows,
    maxInFlight: MAX_ISOLATED_IN_FLIGHT,
    maxInFlightPerPartition: 1,
  });

  async function persist(jobs: Job[]): Promise<Unfinished[]> {
    const entries = jobs.flatMap((job) => job.entries);
    const [waiting, due] = divide(entries, quarantine.mustWait);
    quarantine.onTry(due);
    const [suspects, others] = divide(due, quarantine.isQuarantined);
    // The tries of earlier jobs may have found the project that made the shared statements of these jobs fail.
    const isFound = suspects.length > 0 && (await persistTogether(others));
    const failures = await persistEach(isFound ? suspects : due, performance.now() + MAX_SEARCH_MS);
    const errors: Errors = new Map(failures.map(({ entry, error }) => [entry, error]));
    await blameOutage(errors);
    await deadLetter(jobs, errors);
    for (const entry of waiting) errors.set(entry, undefined);
    return jobs.map((job) => toUnfinished(job, errors));
  }

  /** @returns whether the entries are persisted; if not, try each */
  async function persistTogether(entries: ChunkEntry[]): Promise<boolean> {
    if (entries.length === 0) return false;
    const isPersisted = await gate
      .run(() => upsert(entries))
      .then(
        () => true,
        () => false,
      );
    if (isPersisted) onPersisted(entries);
    return isPersisted;
  }

  /** If PostgreSQL is down now, blames the outage instead of the entries that failed with an outage error. */
  async function blameOutage(errors: Errors): Promise<void> {
    const suspects = [...errors].filter(([, error]) => failureKindOf(error) === 'outage');
    if (suspects.length === 0) return;
    const outage = await gate.check().catch((error: Error) => error);
    if (outage) for (const [entry] of suspects) errors.set(entry, outage);
  }

  /** Dead-letters the entries that the database rejects, and those that fail in the last attempt of their job. */
  async function deadLetter(jobs: Job[], errors: Errors): Promise<void> {
    const dead = jobs.flatMap(({ entries, attempt }) => entries.flatMap((entry) => toDead(entry, attempt, errors)));
    if (dead.length === 0) return;
    try {
      const letters = dead.map(toDeadLetter);
      const added = new Set(await gate.run(() => addDeadLetters(letters)));
      for (const [i, entry] of dead.entries()) if (added.has(letters[i] as DeadLetter)) onDeadLetter(entry);
      for (const { entry, error } of dead) {
        warnDeadLetters(new Error(`project: ${entry.projectId}, reason: ${reasonOf(error)}`));
      }
      for (const { entry } of dead) errors.delete(entry);
    } catch (error) {
      for (const { entry } of dead) errors.set(entry, error as Error);
    }
  }

  function toDead(entry: ChunkEntry, attempt: number, errors: Errors): FailedEntry[] {
    const error = errors.get(entry);
    const isDead = error && (isRejected(error) || (attempt >= maxAttempts && !isBlocked(error) && !isPostponed(error)));
    return isDead ? [{ entry, error }] : [];
  }

  /** @returns the entries that were not persisted, with the error of each */
  async function persistEach(entries: ChunkEntry[], searchUntil: number): Promise<FailedEntry[]> {
    if (entries.length === 0) return [];
    const tried = await gate.run(() => upsertEach(entries)).catch((error: Error) => error);
    if (isPostponed(tried)) return toFailedEntries({ entries, error: tried });
    if (tried instanceof Error) return bisect([{ entries, error: tried }], searchUntil);
    const { persisted, failed, untried } = tried;
    quarantine.onPersisted(persisted);
    onPersisted(persisted);
    const failures = await bisect(failed, searchUntil);
    const locked = performance.now() > searchUntil ? failed.find(({ error }) => isBlocked(error)) : undefined;
    const [givenUp, others] = divide(untried, ({ projectId }) => projectId === locked?.entries[0]?.projectId);
    if (locked) failures.push(...toFailedEntries({ entries: givenUp, error: locked.error }));
    failures.push(...(await persistEach(others, searchUntil)));
    return failures;
  }

  /** Bisects each failed group until every remaining failure is of one entry, or of one customer with a locked row. */
  async function bisect(failed: FailedGroup[], searchUntil: number): Promise<FailedEntry[]> {
    const isFinal = ({ entries, error }: FailedGroup) =>
      entries.length === 1 || (isBlocked(error) && isOneCustomer(entries));
    const [final, open] = divide(failed, isFinal);
    for (const { entries, error } of final) recordFailure(entries[0] as ChunkEntry, error);
    const halves = [
      open.flatMap(({ entries }) => entries.slice(0, entries.length >> 1)),
      open.flatMap(({ entries }) => entries.slice(entries.length >> 1)),
    ];
    const failures = final.flatMap(toFailedEntries);
    for (const half of halves) failures.push(...(await persistEach(half, searchUntil)));
    return failures;
  }

  function recordFailure(entry: ChunkEntry, error: Error): void {
    if (isRejected(error)) quarantine.onRejected(entry);
    else if (!isBlocked(error)) quarantine.onFailed(entry);
    else if (quarantine.onLocked(entry) >= TRIES_TO_WARN) warnLocked(error);
  }

  return async (entries, { attempt }) => {
    // Returned as unfinished, so that their job is postponed: waiting here would occupy one of the worker's job slots.
    const [waiting, due] = divide(entries, quarantine.mustWait);
    const [quarantined, others] = divide(due, quarantine.isCustomerQuarantined);
    const run = async (partition: Partition, own: ChunkEntry[]): Promise<Unfinished> =>
      own.length > 0 ? isolations.run(partition, { entries: own, attempt }) : NOTHING;
    const both = await Promise.all([run('quarantined', quarantined), run('others', others)]);
    return {
      entries: [...waiting, ...both.flatMap((unfinished) => unfinished.entries)],
      error: mostTemporary(both.map(({ error }) => error)),
    };
  };
}

/** A locked row is no failure: its entries only wait. */
function toUnfinished({ entries }: Job, errors: Errors): Unfinished {
  const unfinished = entries.filter((entry) => errors.has(entry));
  const failures = unfinished.map((entry) => errors.get(entry)).filter((error) => !isBlocked(error));
  return { entries: unfinished, error: mostTemporary(failures) };
}

const toFailedEntries = ({ entries, error }: FailedGroup): FailedEntry[] => entries.map((entry) => ({ entry, error }));

const isOneCustomer = ([first, ...others]: ChunkEntry[]) =>
  others.every((other) => other.projectId === first?.projectId && other.customerId === first.customerId);

/** An entry that was not persisted, with the reason. */
export type FailedEntry = { entry: ChunkEntry; error: Error };

/** Whether the database rejected the data. */
const isRejected = (error: unknown): boolean => failureKindOf(error) === 'rejected';

function toDeadLetter({ entry: { projectId, claim: _, requestIds, ...entry }, error }: FailedEntry): DeadLetter {
  return { projectId, entry, requestIds, payload: entry, error: error.message, sqlState: sqlStateOf(error) };
}

/** The SQLSTATE, or `unknown`. Use it in metrics and logs instead of the message, which may quote a partner's data. */
export function reasonOf(error: Error): string {
  return sqlStateOf(error) ?? 'unknown';
}

function sqlStateOf(error: Error): string | undefined {
  return error instanceof StoreError ? error.sqlState : undefined;
}
