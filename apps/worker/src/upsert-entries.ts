import { foldEntries } from '@opm/core';
import type { ChunkEntry } from '@opm/queue';
import { type CustomerRow, type Customers, failureKindOf } from '@opm/store';

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
