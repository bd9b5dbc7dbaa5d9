import { foldEntries } from '@opm/core';
import { type ChunkEntry, retryDelayMs } from '@opm/queue';
import { type CustomerRow, type Customers, failureKindOf } from '@opm/store';
import { LRUCache } from 'lru-cache';

/** Merges the entries into the customers table with one statement. @throws StoreError */
export type UpsertEntries = (entries: ChunkEntry[]) => Promise<void>;

/** Merges each customer's entries separately, in one statement. @throws StoreError if the whole statement failed */
export type UpsertEach = (entries: ChunkEntry[]) => Promise<TriedEntries>;

type TriedEntries = {
  persisted: ChunkEntry[];
  /** One element per customer. */
  failed: { entries: ChunkEntry[]; error: Error }[];
  /** Entries after a locked row, or for which there was no time. */
  untried: ChunkEntry[];
};

type UpsertDeps = {
  customers: Pick<Customers, 'upsert' | 'upsertEach'>;
  onStatement: (statement: { rows: number; seconds: number }) => void;
  onConflict: () => void;
};

const MAX_TRIES = 5;

export function createUpserts({ customers, onStatement, onConflict }: UpsertDeps) {
  const upsert: UpsertEntries = (entries) => {
    const rows = toRows(entries);
    return retryConflicts(rows.length, () => customers.upsert(rows));
  };

  const upsertEach: UpsertEach = (entries) => {
    const rows = toRows(entries);
    return retryConflicts(rows.length, async () => {
      const { failed, untried } = await customers.upsertEach(rows);
      const ofStatement = failed.find(({ error }) => error.kind === 'conflict' || error.kind === 'outage');
      if (ofStatement) throw ofStatement.error;
      const byCustomer = groupBy(entries, keyOf);
      const take = (row: CustomerRow) => {
        const own = byCustomer.get(keyOf(row)) ?? [];
        byCustomer.delete(keyOf(row));
        return own;
      };
      return {
        failed: failed.map(({ row, error }) => ({ entries: take(row), error })),
        untried: untried.flatMap(take),
        persisted: [...byCustomer.values()].flat(),
      };
    });
  };

  /** Repeats a statement at once after a deadlock or serialization failure, up to MAX_TRIES times in all. */
  async function retryConflicts<T>(rows: number, statement: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      const start = performance.now();
      try {
        return await statement();
      } catch (error) {
        if (failureKindOf(error) !== 'conflict' || tries === MAX_TRIES) throw error;
        onConflict();
      } finally {
        onStatement({ rows, seconds: (performance.now() - start) / 1_000 });
      }
    }
  }

  return { upsert, upsertEach };
}

/** Folds the entries to one row per customer. */
function toRows(entries: ChunkEntry[]): CustomerRow[] {
  const rows: CustomerRow[] = [];
  for (const [projectId, ofProject] of groupBy(entries, (entry) => entry.projectId)) {
    for (const [customerId, state] of foldEntries(ofProject)) rows.push({ projectId, customerId, state });
  }
  return rows;
}

const keyOf = ({ projectId, customerId }: { projectId: number; customerId: string }) => `${projectId}:${customerId}`;

/** Like `Map.groupBy`, which requires Node.js 21. */
function groupBy<Key>(entries: ChunkEntry[], toKey: (entry: ChunkEntry) => Key): Map<Key, ChunkEntry[]> {
  const groups = new Map<Key, ChunkEntry[]>();
  for (const entry of entries) {
    const key = toKey(entry);
    const known = groups.get(key);
    if (known) known.push(entry);
    else groups.set(key, [entry]);
  }
  return groups;
}

const MAX_QUARANTINED = 10_000;
const QUARANTINE_MS = 60_000;
/** How long one try keeps other jobs from the same locked rows, in ms. */
const MAX_TRY_MS = 1_000;

export type Quarantine = ReturnType<typeof createQuarantine>;

type Customer = Pick<ChunkEntry, 'projectId' | 'customerId'>;
type LockedRow = { tries: number; until: number };

/**
 * Quarantine keeps entries out of shared statements. For one minute it holds
 *
 * - customers whose row another session has locked, or whose entries failed in isolation, for any reason;
 * - projects whose data the database rejected.
 *
 * A locked row is tried again after a delay that doubles, however many entries wait for it. No statement waits for the
 * row in between.
 */
export function createQuarantine() {
  const options = { max: MAX_QUARANTINED, ttl: QUARANTINE_MS, ttlResolution: 1_000 };
  const customers = new LRUCache<string, LockedRow>(options);
  const projects = new LRUCache<number, true>(options);
  const toKey = ({ projectId, customerId }: Customer) => `${projectId}:${customerId}`;
  const isCustomerQuarantined = (entry: Customer): boolean => customers.size > 0 && customers.has(toKey(entry));

  return {
    isQuarantined: (entry: Customer): boolean =>
      isCustomerQuarantined(entry) || (projects.size > 0 && projects.has(entry.projectId)),

    /** Whether the customer's row is locked, or its entries failed. */
    isCustomerQuarantined,

    /** Whether the delay before the next try of the customer's locked row has not yet passed. */
    mustWait: (entry: Customer): boolean => (customers.get(toKey(entry))?.until ?? 0) > performance.now(),

    /** Call it before a try. Other jobs skip the locked rows among these customers until it ends, at most MAX_TRY_MS. */
    onTry(entries: Customer[]): void {
      if (customers.size === 0) return;
      for (const entry of entries) {
        const held = customers.get(toKey(entry));
        if (held) customers.set(toKey(entry), { ...held, until: performance.now() + MAX_TRY_MS });
      }
    },

    /** @returns the number of consecutive tries that found the row locked */
    onLocked(entry: Customer): number {
      const key = toKey(entry);
      const tries = (customers.get(key)?.tries ?? 0) + 1;
      customers.set(key, { tries, until: performance.now() + retryDelayMs(tries) });
      return tries;
    },

    onFailed(entry: Customer): void {
      const key = toKey(entry);
      customers.set(key, customers.get(key) ?? { tries: 0, until: 0 });
    },

    onRejected: ({ projectId }: Customer): void => void projects.set(projectId, true),

    onPersisted(entries: Customer[]): void {
      if (customers.size === 0) return;
      for (const entry of entries) customers.delete(toKey(entry));
    },
  };
}
