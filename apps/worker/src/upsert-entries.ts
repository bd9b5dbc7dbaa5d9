import { type CustomerEntry, foldEntries } from '@opm/core';
import { type Customers, failureKindOf } from '@opm/store';
import type { ProjectEntry } from './project-entry.js';

/** Merges the entries into the table with one statement. @throws StoreError */
export type UpsertEntries = (entries: ProjectEntry[]) => Promise<void>;

export type UpsertEntriesDeps = {
  upsert: Customers['upsert'];
  onStatement: (statement: { rows: number; seconds: number }) => void;
  onConflict: () => void;
};

const MAX_TRIES = 5;

/** A statement that lost to a neighbour (a deadlock, a serialization failure) is sent again at once, a few times. */
export function createUpsertEntries({ upsert, onStatement, onConflict }: UpsertEntriesDeps): UpsertEntries {
  return async (entries) => {
    const rows = foldByProject(entries);
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
function foldByProject(entries: ProjectEntry[]) {
  const byProject = new Map<number, CustomerEntry[]>();
  for (const { projectId, entry } of entries) {
    const known = byProject.get(projectId);
    if (known) known.push(entry);
    else byProject.set(projectId, [entry]);
  }
  return [...byProject].flatMap(([projectId, ofProject]) =>
    [...foldEntries(ofProject)].map(([customerId, state]) => ({ projectId, customerId, state })),
  );
}
