import { foldEntries } from '@opm/core';
import type { ChunkEntry } from '@opm/queue';
import { type CustomerRow, type Customers, failureKindOf } from '@opm/store';

/** Merges the entries into the table with one statement. @throws StoreError */
export type UpsertEntries = (entries: ChunkEntry[]) => Promise<void>;

export type UpsertEntriesDeps = {
  upsert: Customers['upsert'];
  onStatement: (statement: { rows: number; seconds: number }) => void;
  onConflict: () => void;
};

const MAX_TRIES = 5;

/** A statement that lost to a neighbour (a deadlock, a serialization failure) is sent again at once, a few times. */
export function createUpsertEntries({ upsert, onStatement, onConflict }: UpsertEntriesDeps): UpsertEntries {
  return async (entries) => {
    const rows = toRows(entries);
    for (let tries = 1; ; tries++) {
      const start = performance.now();
      try {
        return await upsert(rows);
      } catch (error) {
        if (failureKindOf(error) !== 'conflict' || tries === MAX_TRIES) throw error;
        onConflict();
      } finally {
        onStatement({ rows: rows.length, seconds: (performance.now() - start) / 1_000 });
      }
    }
  };
}

export function groupByProject(entries: ChunkEntry[]): Map<number, ChunkEntry[]> {
  const byProject = new Map<number, ChunkEntry[]>();
  for (const entry of entries) {
    const known = byProject.get(entry.projectId);
    if (known) known.push(entry);
    else byProject.set(entry.projectId, [entry]);
  }
  return byProject;
}

/** One row per customer. */
function toRows(entries: ChunkEntry[]) {
  const rows: CustomerRow[] = [];
  for (const [projectId, ofProject] of groupByProject(entries)) {
    for (const [customerId, state] of foldEntries(ofProject)) rows.push({ projectId, customerId, state });
  }
  return rows;
}
