import type { Chunk } from '@opm/queue';
import { type DeadLetter, failureKindOf, StoreError } from '@opm/store';

/** An entry that cannot be persisted, as a chunk of its own, and why. */
export type Refused = { chunk: Chunk; error: Error };

/** Whether it says that the data is to blame. */
export const isRefusal = (error: unknown): boolean => failureKindOf(error) === 'refusal';

/** The chunks' entries, each as a chunk of its own. */
export function toSingles(chunks: Chunk[]): Chunk[] {
  return chunks.flatMap((chunk) => chunk.entries.map((entry) => ({ ...chunk, entries: [entry] })));
}

export function toDeadLetters({ chunk: { projectId, entries }, error }: Refused): DeadLetter[] {
  const sqlState = sqlStateOf(error);
  return entries.map((entry) => ({ projectId, entry, payload: entry, error: error.message, sqlState }));
}

/** In few words, as metrics and logs need it: they must not quote what a partner sent. */
export function reasonOf(error: Error): string {
  return sqlStateOf(error) ?? 'unknown';
}

function sqlStateOf(error: Error): string | undefined {
  return error instanceof StoreError ? error.sqlState : undefined;
}
