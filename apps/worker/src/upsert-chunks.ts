import { type CustomerEntry, foldEntries } from '@opm/core';
import type { Chunk } from '@opm/queue';
import { type CustomerRow, type Customers, failureKindOf } from '@opm/store';

/** Merges the chunks' entries into the table with one statement. @throws StoreError */
export type UpsertChunks = (chunks: Chunk[]) => Promise<void>;

export type UpsertChunksDeps = {
  upsert: Customers['upsert'];
  onStatement: (statement: { rows: number; seconds: number }) => void;
  onConflict: () => void;
};

const MAX_TRIES = 5;

/** A statement that lost to a neighbour (a deadlock, a serialization failure) is sent again at once, a few times. */
export function createUpsertChunks({ upsert, onStatement, onConflict }: UpsertChunksDeps): UpsertChunks {
  return async (chunks) => {
    const rows = toRows(chunks);
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

/** One row per customer. */
function toRows(chunks: Chunk[]) {
  const byProject = new Map<number, CustomerEntry[]>();
  for (const { projectId, entries } of chunks) {
    const known = byProject.get(projectId);
    if (known) known.push(...entries);
    else byProject.set(projectId, [...entries]);
  }
  const rows: CustomerRow[] = [];
  for (const [projectId, entries] of byProject) {
    for (const [customerId, state] of foldEntries(entries)) rows.push({ projectId, customerId, state });
  }
  return rows;
}
