import { foldEntries } from '@opm/core';
import type { ChunkEntry } from '@opm/queue';
import { type CustomerRow, type Customers, failureKindOf } from '@opm/store';

/** Merges the entries into the table with one statement. @throws StoreError */
export type UpsertEntries = (entries: ChunkEntry[]) => Promise<void>;

/** The same for each customer's entries by themselves. @throws StoreError for all of them */
export type UpsertEach = (entries: ChunkEntry[]) => Promise<TriedEntries>;

export type TriedEntries = {
  persisted: ChunkEntry[];
  /** By customer. */
  failed: { entries: ChunkEntry[]; error: Error }[];
  /** Those behind one whose row another session holds. */
  untried: ChunkEntry[];
};

export type UpsertDeps = {
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
      const ofNoRow = failed.find(({ error }) => error.kind === 'conflict' || error.kind === 'outage');
      if (ofNoRow) throw ofNoRow.error;
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

  /** A statement that lost to a neighbour (a deadlock, a serialization failure) is sent again at once, a few times. */
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

/** One row per customer. */
function toRows(entries: ChunkEntry[]): CustomerRow[] {
  const rows: CustomerRow[] = [];
  for (const [projectId, ofProject] of groupBy(entries, (entry) => entry.projectId)) {
    for (const [customerId, state] of foldEntries(ofProject)) rows.push({ projectId, customerId, state });
  }
  return rows;
}

const keyOf = ({ projectId, customerId }: { projectId: number; customerId: string }) => `${projectId}:${customerId}`;

/** As `Map.groupBy`, which Node.js has from version 21 on. */
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
