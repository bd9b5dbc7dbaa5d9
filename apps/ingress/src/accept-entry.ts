import { Fault } from '@opm/contract';
import { type CustomerEntry, FIELDS, GroupCommit, withTimeout } from '@opm/core';
import type { Admitted, Asking, ChunkEntry, EntryQueue } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import type { ChunkLane, ChunkLanes } from './chunk-lanes.js';
import type { FindExisting } from './find-existing.js';
import type { TimeBudget } from './time-budget.js';

/** What a partner says of a customer: the entry of a POST, or an erasure. */
export type Said = Omit<CustomerEntry, 'version'>;

/** Who waits for the answer, over which connection, and since when, in ms as `performance.now()` has it. */
export type Requester = {
  projectId: number;
  startedAt: number;
  /** Of the request's body. */
  bodyBytes: number;
  socket: { readonly destroyed: boolean };
};

/**
 * Resolves once the entry is queued durably.
 * @throws Fault QUEUE_UNAVAILABLE or OVERLOADED: it was not accepted, sending it again is safe
 */
export type AcceptEntry = (requester: Requester, entry: Said) => Promise<Verdict>;

/**
 * The same for at most as many entries as a chunk holds: what became of each, in order. Those of one customer apply in
 * their order.
 * @throws Fault OVERLOADED for all of them
 */
export type AcceptEntries = (requester: Requester, entries: Said[]) => Promise<(Verdict | Fault)[]>;

/** It is given to `admit` as it is. */
type Call = Asking & { requester: Requester; entry: Said; bytes: number };

/** Whether the customer was known before this entry: the difference between 202 and 201, or 404 for an erasure. */
export type Verdict = { existed: boolean };

export type AcceptEntryDeps = {
  queue: Pick<EntryQueue, 'admit' | 'release' | 'enqueue'>;
  findExisting: FindExisting;
  chunkLanes: ChunkLanes;
  /** Chunks of one shard on their way at the same time; as many again of those that wait for a look-up first. */
  maxInFlight: number;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs' | 'replyMs'>;
  maxEntries: number;
  /** Entries that may wait for their acknowledgement at the same time; twice as many if they are of projects with few. */
  maxPending: number;
  /** Whether a request that began then may have been given up while this process stood still. */
  isStale: (startedAt: number) => boolean;
  onChunk: (entries: number) => void;
  onShed: (reason: 'in-flight' | 'waited', entries?: number) => void;
  logger: Logger;
};

/** Of the entries in a chunk. A larger job keeps Redis and the workers from others for too long. */
export const MAX_CHUNK_BYTES = 64 * 1024;
/** Its project, and what separates its values. */
const ENTRY_OVERHEAD = 32;

/** Concurrent entries of one shard become one chunk: one admission, one look-up, one job. Projects take turns to fill it. */
export function createAcceptEntry(deps: AcceptEntryDeps) {
  const { queue, findExisting, chunkLanes, maxInFlight, budget, maxEntries, maxPending } = deps;
  const { isStale, onChunk, onShed, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries are not accepted');

  const chunks = new GroupCommit<number, Call, Verdict>({
    commit: (lane, calls) => withTimeout(acceptChunk(chunkLanes.fromLane(lane), calls), budget.workMs).catch(refuse),
    sourceOf: ({ projectId }) => projectId,
    maxBatch: maxEntries,
    bytes: { of: ({ bytes }) => bytes, max: MAX_CHUNK_BYTES },
    ...chunkLanes.toLimits(maxInFlight),
    expiry: { maxWaitMs: budget.turnMs, toError: turnAway },
    refuse: refuseAbandoned,
  });

  /** Its partner may have sent something newer to another ingress, which a later version would undo. */
  function refuseAbandoned({ requester: { socket, startedAt } }: Call): Fault | undefined {
    if (!socket.destroyed && !isStale(startedAt)) return undefined;
    onShed('waited');
    return new Fault('QUEUE_UNAVAILABLE');
  }

  function turnAway(): Fault {
    onShed('waited');
    warnRefused(new Error(`entries waited for more than ${budget.turnMs} ms for their turn`));
    return new Fault('OVERLOADED');
  }

  async function acceptChunk(lane: ChunkLane, calls: Call[]): Promise<Verdict[]> {
    const { shard, priority } = lane;
    const deadline = performance.now() + budget.workMs;
    let admitted: Admitted[] = [];
    try {
      const admittance = await queue.admit(shard, calls);
      admitted = admittance.admitted;
      chunkLanes.onBacklogs(shard, admittance.backlogs);
      // After the admission, or another ingress could slip in between; beside the enqueue, for it knows our own rows.
      const unclaimed = admitted.filter(({ previous }) => !previous);
      const lookUp = findExisting(unclaimed, deadline - budget.replyMs);
      if (lane.waitsForLookUp || calls.some(isAboutErased)) await lookUp; // their rows will not tell what was there before
      // Its partners have been told by now that it was not accepted, and may have sent something newer.
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

  /** It may have come before the erasure, and be admitted after it. */
  const isAboutErased = ({ projectId, customerId }: Call) => chunkLanes.isErased(projectId, customerId);

  /** Its cause is logged here, once for all of the chunk's requests. */
  function refuse(error: Error): never {
    warnRefused((error.cause as Error | undefined) ?? error);
    throw error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
  }

  async function release(shard: number, admitted: Admitted[]): Promise<void> {
    if (admitted.length === 0) return;
    await queue.release(shard, admitted).catch(() => {
      logger.warn({ shard, entries: admitted.length }, 'claims could not be released: retries will be 202');
    });
  }

  /** When too many wait, the projects that hold more than their share of the places are turned away, and not who comes next. */
  function checkPending(projectId: number, entries: number): void {
    if (chunks.pending < maxPending) return;
    const share = maxPending / chunks.sources;
    if (chunks.pending < 2 * maxPending && chunks.pendingOf(projectId) < share) return;
    onShed('in-flight', entries);
    throw new Fault('OVERLOADED');
  }

  const acceptEntry: AcceptEntry = (requester, entry) => {
    checkPending(requester.projectId, 1);
    // The body of a POST holds all of its entry, and to count the bytes of each value takes longer.
    const bytes = requester.bodyBytes || toBytes(entry);
    return chunks.run(chunkLanes.toLane(requester.projectId, entry), toCall(requester, entry, bytes));
  };

  const acceptEntries: AcceptEntries = async (requester, entries) => {
    checkPending(requester.projectId, entries.length);
    // Together per lane: two admissions that are under way at the same time may be decided in either order.
    const calls = entries.map((entry) => ({
      lane: chunkLanes.toLane(requester.projectId, entry),
      item: toCall(requester, entry, toBytes(entry)),
    }));
    const outcomes = await chunks.runAll(calls);
    return outcomes.map((outcome) => ('result' in outcome ? outcome.result : (outcome.error as Fault)));
  };
  return { acceptEntry, acceptEntries, pending: () => chunks.pending, chunksInFlight: () => chunks.inFlight };
}

function toCall(requester: Requester, entry: Said, bytes: number): Call {
  const call: Call = { projectId: requester.projectId, customerId: entry.customerId, requester, entry, bytes };
  if (entry.erase) call.erase = true;
  return call;
}

/** About what an entry takes in a job's data. */
function toBytes({ customerId, fields }: Said): number {
  let bytes = ENTRY_OVERHEAD + Buffer.byteLength(customerId);
  if (fields) for (const field of FIELDS) bytes += fields[field] ? Buffer.byteLength(fields[field]) : 0;
  return bytes;
}

/** Each entry with the version that it got. */
function toEntries(calls: Call[], admitted: Admitted[]): ChunkEntry[] {
  return calls.map(({ projectId, entry: said }, i) => {
    const version = admitted[i]?.version;
    if (version === undefined) throw new Error('admission must answer for every entry');
    const entry: ChunkEntry = { projectId, customerId: said.customerId, version }; // not spread: that is slow, for every entry
    if (said.fields) entry.fields = said.fields;
    if (said.erase) entry.erase = true;
    return entry;
  });
}
