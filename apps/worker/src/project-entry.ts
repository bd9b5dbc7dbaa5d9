import type { CustomerEntry } from '@opm/core';
import type { Chunk } from '@opm/queue';
import { type DeadLetter, StoreError } from '@opm/store';

export type ProjectEntry = { projectId: number; entry: CustomerEntry };

/** An entry that cannot be persisted, and why. */
export type Refused = ProjectEntry & { error: Error };

export function toProjectEntries({ projectId, entries }: Chunk): ProjectEntry[] {
  return entries.map((entry) => ({ projectId, entry }));
}

export function toDeadLetter({ projectId, entry, error }: Refused): DeadLetter {
  return { projectId, entry, payload: entry, error: error.message, sqlState: sqlStateOf(error) };
}

/** In few words, as metrics and logs need it: they must not quote what a partner sent. */
export function reasonOf(error: Error): string {
  return sqlStateOf(error) ?? 'unknown';
}

function sqlStateOf(error: Error): string | undefined {
  return error instanceof StoreError ? error.sqlState : undefined;
}
