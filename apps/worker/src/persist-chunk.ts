import { type CustomerEntry, foldEntries, GroupCommit } from '@opm/core';
import { type Chunk, type EntryWorker, type Persisted, PoisonChunk } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { type Customers, isRefusal } from '@opm/store';

/** Resolves when all entries of the chunk have their effect in PostgreSQL. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: { shard: number; jobId: string }) => Promise<void>;

export type PersistChunkDeps = {
  upsert: Customers['upsert'];
  settle: EntryWorker['settle'];
  maxChunks: number;
  maxInFlight: number;
  persisted: { inc(entries: number): void };
  statementRows: { observe(rows: number): void };
  onUnsettled: (error: unknown) => void;
  logger: Logger;
};

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { upsert, settle, maxChunks, maxInFlight, persisted, statementRows, onUnsettled, logger } = deps;

  const statements = new GroupCommit<number, Chunk, void | Error>({
    commit: persistTogether,
    maxBatch: maxChunks,
    maxInFlight,
  });

  /** A chunk that PostgreSQL refuses must not take the others down: then each one is tried on its own. */
  async function persistTogether(shard: number, chunks: Chunk[]): Promise<(void | Error)[]> {
    try {
      await persist(shard, chunks);
      return chunks.map(() => undefined);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      if (chunks.length === 1) return [error];
      const results: (void | Error)[] = [];
      for (const chunk of chunks) results.push(...(await persistTogether(shard, [chunk])));
      return results;
    }
  }

  async function persist(shard: number, chunks: Chunk[]): Promise<void> {
    const rows = foldChunks(chunks);
    statementRows.observe(rows.length);
    await upsert(rows);
    persisted.inc(chunks.reduce((sum, { entries }) => sum + entries.length, 0));
    const settled = rows.map(({ projectId, customerId, state }): Persisted => {
      return { projectId, customerId, version: state.lastVersion };
    });
    await settle(shard, settled).catch(onUnsettled);
  }

  return async (chunk, { shard, jobId }) => {
    const refused = await statements.run(shard, chunk);
    if (refused) throw new PoisonChunk(refused.message, { cause: refused });
    logger.debug({ jobId, projectId: chunk.projectId, entries: chunk.entries.length }, 'chunk persisted');
  };
}

/** One row per customer. */
function foldChunks(chunks: Chunk[]) {
  const entriesOf = new Map<number, CustomerEntry[]>();
  for (const { projectId, entries } of chunks) {
    const known = entriesOf.get(projectId);
    if (known) known.push(...entries);
    else entriesOf.set(projectId, [...entries]);
  }
  return [...entriesOf].flatMap(([projectId, entries]) =>
    [...foldEntries(entries)].map(([customerId, state]) => ({ projectId, customerId, state })),
  );
}
