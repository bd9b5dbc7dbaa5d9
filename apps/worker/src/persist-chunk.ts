import { type CustomerEntry, foldEntries, GroupCommit } from '@opm/core';
import type { Chunk, EntryWorker, Persisted } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { type Customers, type DeadLetter, type DeadLetters, isRefusal, type StoreError } from '@opm/store';

/** Resolves when every entry of the chunk has its effect in PostgreSQL or is a dead letter. Doing it twice changes nothing. */
export type PersistChunk = (chunk: Chunk, context: { shard: number; jobId: string }) => Promise<void>;

export type PersistChunkDeps = {
  upsert: Customers['upsert'];
  addDeadLetters: DeadLetters['add'];
  settle: EntryWorker['settle'];
  maxChunks: number;
  maxInFlight: number;
  persisted: { inc(entries: number): void };
  deadLettered: { inc(labels: { sqlState: string }): void };
  statementRows: { observe(rows: number): void };
  logger: Logger;
};

type ProjectEntry = { projectId: number; entry: CustomerEntry };
type Refused = ProjectEntry & { error: StoreError };

/** Chunks of jobs that run at the same time become one statement, after folding the entries of each customer. */
export function createPersistChunk(deps: PersistChunkDeps): PersistChunk {
  const { upsert, addDeadLetters, settle, maxChunks, maxInFlight, persisted, deadLettered, statementRows, logger } =
    deps;

  const statements = new GroupCommit<number, Chunk, void>({ commit: persistChunks, maxBatch: maxChunks, maxInFlight });

  let isAway = false;

  async function persistChunks(shard: number, chunks: Chunk[]): Promise<void[]> {
    const entries = chunks.flatMap(({ projectId, entries }) => entries.map((entry) => ({ projectId, entry })));
    const refused = await persistOrBisect(entries);
    if (refused.length > 0) await bury(refused);
    persisted.inc(entries.length - refused.length);
    await settle(shard, toPersisted(entries)).catch((error) => {
      logger.warn({ err: error }, 'claims could not be settled; they expire by themselves');
    });
    return chunks.map(() => undefined);
  }

  /** What PostgreSQL refuses for its data is halved until the guilty entries stand alone; the others are persisted. */
  async function persistOrBisect(entries: ProjectEntry[]): Promise<Refused[]> {
    try {
      const rows = foldByProject(entries);
      statementRows.observe(rows.length);
      await upsert(rows);
      noteOutage(undefined);
      return [];
    } catch (error) {
      if (!isRefusal(error)) {
        noteOutage(error);
        throw error;
      }
      const [only, ...others] = entries;
      if (only && others.length === 0) return [{ ...only, error }];
      const middle = entries.length >> 1;
      return [...(await persistOrBisect(entries.slice(0, middle))), ...(await persistOrBisect(entries.slice(middle)))];
    }
  }

  /** One line when statements begin to fail and one when they succeed again, not one per job. */
  function noteOutage(error: unknown): void {
    if ((error !== undefined) === isAway) return;
    isAway = error !== undefined;
    if (isAway) logger.warn({ err: error }, 'PostgreSQL does not take statements; their jobs are tried again');
    else logger.info('PostgreSQL takes statements again');
  }

  async function bury(refused: Refused[]): Promise<void> {
    await addDeadLetters(refused.map(toDeadLetter));
    for (const { projectId, entry, error } of refused) {
      deadLettered.inc({ sqlState: error.sqlState ?? 'none' });
      logger.error({ projectId, version: entry.version, sqlState: error.sqlState }, 'entry is a dead letter');
    }
  }

  return async (chunk, { shard, jobId }) => {
    await statements.run(shard, chunk);
    logger.debug({ jobId, projectId: chunk.projectId, entries: chunk.entries.length }, 'chunk persisted');
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

const toPersisted = (entries: ProjectEntry[]): Persisted[] =>
  entries.map(({ projectId, entry: { customerId, version } }) => ({ projectId, customerId, version }));

const toDeadLetter = ({ projectId, entry, error }: Refused): DeadLetter => ({
  projectId,
  entry,
  payload: entry,
  error: error.message,
  sqlState: error.sqlState,
});
