import type { ChunkEntry } from '@opm/queue';
import { type DeadLetter, failureKindOf, StoreError } from '@opm/store';

/** An entry that cannot be persisted, and why. */
export type Refused = { entry: ChunkEntry; error: Error };

/** Whether it says that the data is to blame. */
export const isRefusal = (error: unknown): boolean => failureKindOf(error) === 'refusal';

export function toDeadLetter({ entry: { projectId, claim: _, ...entry }, error }: Refused): DeadLetter {
  return { projectId, entry, payload: entry, error: error.message, sqlState: sqlStateOf(error) };
}

/** In few words, as metrics and logs need it: they must not quote what a partner sent. */
export function reasonOf(error: Error): string {
  return sqlStateOf(error) ?? 'unknown';
}

function sqlStateOf(error: Error): string | undefined {
  return error instanceof StoreError ? error.sqlState : undefined;
}
