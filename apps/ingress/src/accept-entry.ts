import { type Entry, Fault } from '@opm/contract';
import { type CustomerEntry, GroupCommit } from '@opm/core';
import { type Admitted, type EntryQueue, shardOf } from '@opm/queue';
import { createSparseWarning, type Logger, withTimeout } from '@opm/runtime';
import type { FindExisting } from './find-existing.js';

/**
 * Resolves once the entry is queued durably.
 * @throws Fault QUEUE_UNAVAILABLE or OVERLOADED: it was not accepted, sending it again is safe
 */
export type AcceptEntry = (projectId: number, entry: Entry) => Promise<Verdict>;

/** Whether the customer was known before this entry: the difference between 202 and 201. */
export type Verdict = { existed: boolean };

export type AcceptEntryDeps = {
  queue: Pick<EntryQueue, 'admit' | 'release' | 'enqueue'>;
  findExisting: FindExisting;
  shards: number;
  maxEntries: number;
  /** Chunks of one project and shard on their way at the same time. */
  maxInFlight: number;
  /** Entries that may wait for their acknowledgement at the same time. */
  maxPending: number;
  onChunk: (entries: number) => void;
  onShed: (reason: 'in-flight' | 'waited') => void;
  logger: Logger;
};

/** Together a second, after which partners know that the queue hangs or is too slow: for a chunk's turn, and for the chunk. */
const MAX_WAIT_MS = 250;
const CHUNK_TIMEOUT_MS = 750;
/** Of all projects and shards, which wait for their stores and not for the processor. */
const MAX_CHUNKS_IN_FLIGHT = 64;

/** Concurrent entries of one project and shard become one chunk: one admission, one look-up, one job. */
export function createAcceptEntry(deps: AcceptEntryDeps) {
  const { queue, findExisting, shards, maxEntries, maxInFlight, maxPending, onChunk, onShed, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries are not accepted');
  /** One project's entries of one shard. */
  const toLane = (projectId: number, shard: number) => projectId * shards + shard;
  const fromLane = (lane: number) => ({ projectId: Math.floor(lane / shards), shard: lane % shards });

  const chunks = new GroupCommit<number, Entry, Verdict>({
    commit(lane, entries) {
      const { projectId, shard } = fromLane(lane);
      return withTimeout(acceptChunk(projectId, shard, entries), CHUNK_TIMEOUT_MS).catch(refuse);
    },
    maxBatch: maxEntries,
    maxInFlight: MAX_CHUNKS_IN_FLIGHT,
    maxInFlightPerLane: maxInFlight,
    expiry: { maxWaitMs: MAX_WAIT_MS, toError: turnAway },
  });

  function turnAway(): Fault {
    onShed('waited');
    warnRefused(new Error(`entries waited for more than ${MAX_WAIT_MS} ms for their turn`));
    return new Fault('OVERLOADED');
  }

  async function acceptChunk(projectId: number, shard: number, entries: Entry[]): Promise<Verdict[]> {
    let admitted: Admitted[] = [];
    try {
      const admittance = await queue.admit(shard, projectId, entries);
      admitted = admittance.admitted;
      // After the admission, or another ingress could slip in between; before the enqueue, or we could see our own row.
      const unclaimed = admitted.filter(({ previous }) => !previous);
      const existing = await findExisting({ projectId, asked: unclaimed });
      const jobId = await queue.enqueue(
        shard,
        { v: 1, projectId, entries: toEntries(entries, admitted) },
        admittance.backlog,
      );
      onChunk(entries.length);
      logger.debug({ jobId, projectId, shard, entries: entries.length }, 'chunk queued');
      return admitted.map(({ customerId, previous }) => ({
        existed: previous ? !previous.erased : (existing?.has(customerId) ?? true),
      }));
    } catch (error) {
      await release(projectId, shard, admitted);
      throw error;
    }
  }

  /** Its cause is logged here, once for all of the chunk's requests. */
  function refuse(error: Error): never {
    warnRefused((error.cause as Error | undefined) ?? error);
    throw error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
  }

  async function release(projectId: number, shard: number, admitted: Admitted[]): Promise<void> {
    if (admitted.length === 0) return;
    await queue.release(shard, projectId, admitted).catch(() => {
      logger.warn({ projectId, shard, entries: admitted.length }, 'claims could not be released: retries will be 202');
    });
  }

  const acceptEntry: AcceptEntry = (projectId, entry) => {
    if (chunks.pending >= maxPending) {
      onShed('in-flight');
      throw new Fault('OVERLOADED');
    }
    return chunks.run(toLane(projectId, shardOf(projectId, entry.customerId, shards)), entry);
  };
  return { acceptEntry, pending: () => chunks.pending, chunksInFlight: () => chunks.inFlight };
}

/** Each entry with the version that it got. */
function toEntries(entries: Entry[], admitted: Admitted[]): CustomerEntry[] {
  return entries.map(({ customerId, fields }, i) => {
    const version = admitted[i]?.version;
    if (version === undefined) throw new Error('admission must answer for every entry');
    return { customerId, version, fields };
  });
}
