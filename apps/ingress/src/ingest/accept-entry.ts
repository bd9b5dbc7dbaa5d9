import { Fault } from '@opm/contract';
import { type CustomerEntry, FIELDS, GroupCommit, withTimeout } from '@opm/core';
import type { AdmitRequest, Admitted, ChunkEntry, EntryQueue } from '@opm/queue';
import { createThrottledWarning, type Logger } from '@opm/runtime';
import type { TimeBudget } from '../config.js';
import type { Requester } from '../http/request-context.js';
import type { FindExisting } from './find-existing.js';
import type { ChunkPartition, ChunkPartitions } from './partitions.js';

/** An entry or an erasure as a partner sent it, before admission gives it a version. */
export type EntryInput = Omit<CustomerEntry, 'version'>;

/**
 * Resolves once the entry is queued durably.
 * @throws Fault OVERLOADED: the entry was not accepted. QUEUE_UNAVAILABLE: the entry may have been queued. Sending it
 * again is safe in both cases.
 */
export type AcceptEntry = (requester: Requester, entry: EntryInput) => Promise<Verdict>;

/**
 * The same for several entries, at most as many as a chunk holds. Resolves with one result or Fault per entry, in
 * order. Entries of one customer take effect in this order.
 * @throws Fault OVERLOADED: no entry was accepted
 */
export type AcceptEntries = (requester: Requester, entries: EntryInput[]) => Promise<(Verdict | Fault)[]>;

/** `admit` gets this object itself; a copy would cost time for every entry. */
type Call = AdmitRequest & { requester: Requester; entry: EntryInput; bytes: number };

/** Whether the customer existed before this entry: 202 or 201 for an entry, 202 or 404 for an erasure. */
export type Verdict = { existed: boolean };

type AcceptEntryDeps = {
  queue: Pick<EntryQueue, 'admit' | 'release' | 'enqueue'>;
  findExisting: FindExisting;
  chunkPartitions: ChunkPartitions;
  /** Maximum chunks of one shard in flight, and the same number again of chunks that wait for a look-up first. */
  maxInFlight: number;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs' | 'replyMs'>;
  maxEntries: number;
  /**
   * Maximum entries that wait for their acknowledgement. Projects below their share may go on up to twice this number.
   */
  maxPending: number;
  /** Whether the partner may have given up a request that began at `startedAt` because this process stalled. */
  isStale: (startedAt: number) => boolean;
  onChunk: (entries: number) => void;
  onShed: (reason: 'in-flight' | 'waited', entries?: number) => void;
  logger: Logger;
};

/** A larger job would block Redis and the workers for other jobs for too long. */
export const MAX_CHUNK_BYTES = 64 * 1024;
/** Bytes of an entry's project id and separators. */
const ENTRY_OVERHEAD = 32;

/**
 * Collects concurrent entries of one shard into a chunk: one admission, one look-up, one job. Projects share it fairly.
 */
export function createAcceptEntry(deps: AcceptEntryDeps) {
  const { queue, findExisting, chunkPartitions, maxInFlight, budget, maxEntries, maxPending } = deps;
  const { isStale, onChunk, onShed, logger } = deps;

  const warnRefused = createThrottledWarning(logger, 'could not queue entries; answering 503');

  const chunks = new GroupCommit<number, Call, Verdict>({
    commit: (partition, calls) =>
      withTimeout(acceptChunk(chunkPartitions.fromPartition(partition), calls), budget.workMs).catch(refuse),
    sourceOf: ({ projectId }) => projectId,
    maxBatch: maxEntries,
    bytes: { of: ({ bytes }) => bytes, max: MAX_CHUNK_BYTES },
    ...chunkPartitions.toLimits(maxInFlight),
    expiry: { maxWaitMs: budget.turnMs, toError: turnAway },
    refuse: refuseAbandoned,
  });

  /**
   * Refuses an entry whose partner may have given up and sent a newer one to another ingress. Admitted now, the old
   * entry would get the higher version and overwrite the newer one.
   */
  function refuseAbandoned({ requester: { socket, startedAt } }: Call): Fault | undefined {
    if (!socket.destroyed && !isStale(startedAt)) return undefined;
    onShed('waited');
    return new Fault('QUEUE_UNAVAILABLE');
  }

  function turnAway(): Fault {
    onShed('waited');
    warnRefused(new Error(`entries waited longer than ${budget.turnMs} ms for earlier chunks`));
    return new Fault('OVERLOADED');
  }

  async function acceptChunk(partition: ChunkPartition, calls: Call[]): Promise<Verdict[]> {
    const { shard, priority } = partition;
    const deadline = performance.now() + budget.workMs;
    let admitted: Admitted[] = [];
    try {
      const admittance = await queue.admit(shard, calls);
      admitted = admittance.admitted;
      chunkPartitions.onBacklogs(shard, admittance.backlogs);
      // Starts after the admission, or another ingress could admit and persist an entry in between. It may overlap with
      // the enqueue, because it ignores rows that are not older than these versions.
      const unclaimed = admitted.filter(({ previous }) => !previous);
      const lookUp = findExisting(unclaimed, deadline - budget.replyMs);
      // After an erasure, the rows written by this chunk would hide whether the customer existed before.
      if (partition.waitsForLookUp || calls.some(isAboutErased)) await lookUp;
      // The partners already have a 503 and may have sent newer entries.
      if (performance.now() > deadline) throw new Fault('QUEUE_UNAVAILABLE');
      const jobId = await queue.enqueue(shard, { entries: toEntries(calls, admitted) }, priority);
      const existing = await lookUp;
      onChunk(calls.length);
      logger.debug({ jobId, shard, entries: calls.length }, 'chunk queued');
      let place = 0;
      return admitted.map(({ previous }) => ({
        existed: previous ? !previous.erased : (existing?.has(place++) ?? true),
      }));
    } catch (error) {
      await release(shard, admitted);
      throw error;
    }
  }

  /** Checked again, because the call may have got its partition before the erasure and be admitted after it. */
  const isAboutErased = ({ projectId, customerId }: Call) => chunkPartitions.isErased(projectId, customerId);

  /** Logs the cause once for all requests of the chunk. */
  function refuse(error: Error): never {
    warnRefused((error.cause as Error | undefined) ?? error);
    throw error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
  }

  async function release(shard: number, admitted: Admitted[]): Promise<void> {
    if (admitted.length === 0) return;
    await queue.release(shard, admitted).catch(() => {
      logger.warn(
        { shard, entries: admitted.length },
        'could not release claims; retries of these entries get 202 instead of 201',
      );
    });
  }

  /** Above `maxPending`, refuses projects that hold at least their equal share of the places; above twice that, all. */
  function checkPending(projectId: number, entries: number): void {
    if (chunks.pending < maxPending) return;
    const share = maxPending / chunks.sources;
    if (chunks.pending < 2 * maxPending && chunks.pendingOf(projectId) < share) return;
    onShed('in-flight', entries);
    throw new Fault('OVERLOADED');
  }

  const acceptEntry: AcceptEntry = (requester, entry) => {
    checkPending(requester.projectId, 1);
    // The size of the body is an upper bound, and faster than counting the bytes of each value.
    const bytes = requester.bodyBytes || toBytes(entry);
    return chunks.run(chunkPartitions.toPartition(requester.projectId, entry), toCall(requester, entry, bytes));
  };

  const acceptEntries: AcceptEntries = async (requester, entries) => {
    checkPending(requester.projectId, entries.length);
    // `runAll` keeps the calls of one partition in one chunk: two concurrent admissions could be decided in either order.
    const calls = entries.map((entry) => ({
      partition: chunkPartitions.toPartition(requester.projectId, entry),
      item: toCall(requester, entry, toBytes(entry)),
    }));
    const outcomes = await chunks.runAll(calls);
    return outcomes.map((outcome) => ('result' in outcome ? outcome.result : (outcome.error as Fault)));
  };
  return { acceptEntry, acceptEntries, pending: () => chunks.pending, chunksInFlight: () => chunks.inFlight };
}

function toCall(requester: Requester, entry: EntryInput, bytes: number): Call {
  const call: Call = { projectId: requester.projectId, customerId: entry.customerId, requester, entry, bytes };
  if (entry.erase) call.erase = true;
  return call;
}

/** Approximate size of an entry in a job's data, in bytes. */
function toBytes({ customerId, fields }: EntryInput): number {
  let bytes = ENTRY_OVERHEAD + Buffer.byteLength(customerId);
  if (fields) for (const field of FIELDS) bytes += fields[field] ? Buffer.byteLength(fields[field]) : 0;
  return bytes;
}

/** Combines the entries with the versions that admission gave them. */
function toEntries(calls: Call[], admitted: Admitted[]): ChunkEntry[] {
  return calls.map(({ projectId, entry: input }, i) => {
    const version = admitted[i]?.version;
    if (version === undefined) throw new Error('admission returned fewer results than entries');
    const entry: ChunkEntry = { projectId, customerId: input.customerId, version };
    if (input.fields) entry.fields = input.fields;
    if (input.erase) entry.erase = true;
    return entry;
  });
}
