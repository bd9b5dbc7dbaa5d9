import { Fault } from '@opm/contract';
import { awaitAll, GroupCommit, withTimeout } from '@opm/core';
import { type Admitted, type EntryQueue, findNew, toClosedState } from '@opm/queue';
import { createThrottledWarning, type Logger } from '@opm/runtime';
import type { TimeBudget } from '../config.js';
import { createToFault, type OnShed, shed } from '../guards/overload.js';
import type { IsAbandoned, Requester } from '../http/request-context.js';
import { createAcceptRepeats } from './accept-repeats.js';
import {
  AbandonedFault,
  type AcceptEntries,
  type AcceptEntry,
  type AcceptPart,
  addCall,
  type Bulk,
  type Call,
  type CallGroup,
  MAX_CHUNK_BYTES,
  pickCalls,
  type Results,
  toChunks,
  toKeyedParts,
  toRequestBytes,
  type Verdict,
  withMerged,
} from './call.js';
import type { FindExisting } from './find-existing.js';
import type { ChunkPartitions } from './partitions.js';

type AcceptEntryDeps = {
  queue: Pick<EntryQueue, 'admit' | 'admitAgain' | 'release' | 'enqueue'> & {
    idempotency: Pick<EntryQueue['idempotency'], 'close'>;
  };
  findExisting: FindExisting;
  chunkPartitions: ChunkPartitions;
  /** Maximum admissions of one shard in flight; as many again may wait for a look-up. See `slotsOf`. */
  maxInFlight: number;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs' | 'replyMs'>;
  maxEntries: number;
  /**
   * Maximum entries that wait for their acknowledgement. Projects below their share may go on until twice this number.
   */
  maxPending: number;
  isAbandoned: IsAbandoned;
  onChunk: (entries: number) => void;
  /** Called with approximate bytes of some projects' records of idempotency keys in a shard, by project id. */
  onRecordBytes: (ofProjects: Map<number, number>) => void;
  onShed: OnShed;
  logger: Logger;
};

/**
 * Collects concurrent entries of one shard: one admission, one look-up, and one chunk per priority, usually one.
 * Projects share them fairly.
 */
export function createAcceptEntry(deps: AcceptEntryDeps) {
  const { queue, findExisting, chunkPartitions, maxInFlight, budget, maxEntries, maxPending } = deps;
  const { isAbandoned, onChunk, onRecordBytes, onShed, logger } = deps;

  const warnRefused = createThrottledWarning(logger, 'could not queue entries; answering 503');
  const toFault = createToFault(warnRefused); // once for all requests of a chunk
  const warnNotClosed = createThrottledWarning(
    logger,
    'could not store the answers of requests with idempotency keys; a repeat is queued again with its first version',
  );

  const chunks = new GroupCommit<number, CallGroup, Results | Results[number]>({
    async commit(partition, groups) {
      const deadline = performance.now() + budget.workMs;
      const calls = inOrderOfPriority(groups);
      const { shard, waitsForLookUp } = chunkPartitions.fromPartition(partition);
      const replyAt = deadline - budget.replyMs;
      const bulk = { shard, waitsForLookUp, calls, parts: toKeyedParts(calls), deadline, replyAt };
      const results = await withTimeout(acceptTogether(bulk), budget.workMs).catch((error) => {
        throw toFault(error);
      });
      if (results.length !== calls.length) throw new Error('there must be one result per entry');
      return groups.map(({ first, calls: { length }, isSingle }) =>
        isSingle ? results[first] : results.slice(first, first + length),
      );
    },
    sourceOf: ({ requester }) => requester.projectId,
    sizeOf: ({ calls }) => calls.length,
    // One slot per chunk while there is room for more entries; otherwise more priorities would mean smaller chunks.
    slotsOf: (groups) => new Set(groups.map(({ priority }) => priority)).size,
    maxBatch: maxEntries,
    bytes: { of: ({ bytes }) => bytes, max: MAX_CHUNK_BYTES },
    // Each partition has slots of its own, so that a slow PostgreSQL delays only the entries that wait for a look-up.
    maxInFlight: Number.POSITIVE_INFINITY,
    maxInFlightPerPartition: maxInFlight,
    expiry: { maxWaitMs: budget.turnMs, toError: turnAway },
    refuse: refuseAbandoned,
  });

  const acceptRepeats = createAcceptRepeats({ queue, findExisting, acceptTogether, finish, toFaults });

  /**
   * Refuses an entry whose partner may have given up and sent a newer one to another ingress. Admitted now, the old
   * entry would get the higher version and overwrite the newer one.
   */
  function refuseAbandoned({ requester, calls }: CallGroup): Fault | undefined {
    if (!isAbandoned(requester)) return undefined;
    onShed('waited', calls.length);
    return new AbandonedFault();
  }

  function turnAway({ calls }: CallGroup): Fault {
    warnRefused(new Error(`entries waited longer than ${budget.turnMs} ms for earlier chunks`));
    return shed(onShed, 'waited', calls.length);
  }

  async function acceptTogether(bulk: Bulk): Promise<Results> {
    const { shard, calls, parts } = bulk;
    const { admitted, known, backlogs, recordBytes } = await queue.admit(shard, calls, parts);
    chunkPartitions.onBacklogs(shard, backlogs);
    if (recordBytes.size > 0) onRecordBytes(recordBytes);
    if (!known) return acceptAdmitted(bulk, admitted);
    const places = findNew([...calls.keys()], parts, known);
    const fresh = pickCalls(bulk, places);
    // A failure of the repeats does not fail the new entries, nor the reverse.
    const [results, own] = await Promise.all([
      acceptRepeats(bulk, known).catch((error): Results => toFaults(error, calls)),
      places.length > 0 ? acceptAdmitted(fresh, admitted).catch((error) => toFaults(error, fresh.calls)) : [],
    ]);
    for (const [i, place] of places.entries()) results[place] = own[i];
    return results;
  }

  const acceptAdmitted = (bulk: Bulk, admitted: Admitted[]): Promise<Results> =>
    finish(bulk, admitted, decide(admitted, bulk.replyAt));

  function toFaults(error: Error, calls: Call[]): Fault[] {
    const fault = toFault(error);
    return calls.map(() => fault);
  }

  /**
   * Looks up the customers without a claim. Starts after the admission; otherwise another ingress could admit and
   * persist an entry in between. May overlap with the enqueue, because the look-up ignores rows at or above these
   * versions.
   */
  async function decide(admitted: Admitted[], replyAt: number): Promise<Verdict[]> {
    const unclaimed = admitted.filter(({ previous }) => !previous);
    const existing = await findExisting(unclaimed, replyAt);
    let place = 0;
    return admitted.map(({ previous, version }): Verdict => {
      return { existed: previous ? !previous.erased : (existing?.has(place++) ?? true), version };
    });
  }

  /**
   * Enqueues admitted calls and closes their keyed parts. If that fails, releases the claims.
   * @param deciding the look-up. Must not reject unless the calls wait for it: otherwise it runs during the enqueue
   */
  async function finish(bulk: Bulk, admitted: Admitted[], deciding: Promise<Verdict[]>): Promise<Verdict[]> {
    try {
      // After an erasure, the rows written by this chunk would hide whether the customer existed before.
      if (bulk.waitsForLookUp || bulk.calls.some(isAboutErased)) await deciding;
      await enqueue(bulk, admitted);
      const verdicts = await deciding;
      return bulk.parts.length > 0 ? await closeParts(bulk, admitted, verdicts) : verdicts;
    } catch (error) {
      await release(bulk.shard, admitted);
      throw error;
    }
  }

  /**
   * @throws Fault QUEUE_UNAVAILABLE after the deadline: the partners already have a 503, and may have sent newer
   * entries
   */
  async function enqueue({ shard, calls, deadline }: Bulk, admitted: Admitted[]): Promise<void> {
    if (performance.now() > deadline) throw new Fault('QUEUE_UNAVAILABLE');
    const enqueueing = toChunks(calls, admitted).map(async ({ entries, priority }) => {
      const jobId = await queue.enqueue(shard, { entries }, priority);
      onChunk(entries.length);
      logger.debug({ jobId, shard, entries: entries.length }, 'chunk queued');
    });
    await awaitAll(enqueueing); // a failure releases the claims, so no enqueue may still run
  }

  /**
   * Stores the verdicts before the answers are sent, because a partner may repeat its request right after the answer.
   * If the store fails or is slow, the partners get their answers anyway; a repeat is then queued again with its first
   * version.
   * @returns the verdicts, merged with those of concurrent attempts
   */
  async function closeParts({ shard, parts, replyAt }: Bulk, admitted: Admitted[], verdicts: Verdict[]) {
    const existed = verdicts.map((verdict) => verdict.existed);
    const closed = parts.map(({ id, first, size }) => {
      return { id, version: admitted[first]?.version ?? 0, state: toClosedState(existed, first, size) };
    });
    const timeoutMs = Math.max(1, replyAt - performance.now());
    const closing = queue.idempotency.close(shard, closed).then((merged) => withMerged(verdicts, parts, merged));
    return withTimeout(closing, timeoutMs).catch((error) => {
      warnNotClosed(error);
      return verdicts;
    });
  }

  /** Checked again, because the call may have got its partition before the erasure and be admitted after it. */
  const isAboutErased = ({ projectId, customerId }: Call) => chunkPartitions.isErased(projectId, customerId);

  async function release(shard: number, admitted: Admitted[]): Promise<void> {
    if (admitted.length === 0) return;
    await queue.release(shard, admitted).catch(() => {
      logger.warn(
        { shard, entries: admitted.length },
        'could not release claims; retries of these entries get 202 instead of 201',
      );
    });
  }

  /** Above `maxPending`, refuses projects that hold at least their equal share; above twice that, all projects. */
  function checkPending(projectId: number, entries: number): void {
    if (chunks.pending < maxPending) return;
    const share = maxPending / chunks.sources;
    if (chunks.pending < 2 * maxPending && chunks.pendingOf(projectId) < share) return;
    throw shed(onShed, 'in-flight', entries);
  }

  function createGroup(requester: Requester, partition: number, part?: CallGroup['part']): CallGroup {
    const priority = chunkPartitions.priorityOf(requester.projectId, partition);
    return { requester, part, priority, calls: [], first: 0, bytes: toRequestBytes(requester), isSingle: false };
  }

  const acceptEntry: AcceptEntry = (requester, entry) => {
    checkPending(requester.projectId, 1);
    const partition = chunkPartitions.assign(requester.projectId, entry);
    const group = createGroup(requester, partition);
    group.isSingle = true;
    // The size of the body is an upper bound, and faster than counting the bytes of each value.
    addCall(group, entry, requester.bodyBytes || undefined);
    return chunks.run(partition, group) as Promise<Verdict>;
  };

  const runGroup = (partition: number, group: CallGroup) => chunks.run(partition, group) as Promise<Results>;

  const acceptEntries: AcceptEntries = async (requester, entries) => {
    checkPending(requester.projectId, entries.length);
    // A group per partition, or two concurrent admissions of a customer's entries could be decided in either order.
    const groups = new Map<number, { group: CallGroup; places: number[] }>();
    let place = 0; // `entries()` is slower, and this runs for every entry
    for (const entry of entries) {
      const partition = chunkPartitions.assign(requester.projectId, entry);
      const own = groups.get(partition) ?? { group: createGroup(requester, partition), places: [] };
      groups.set(partition, own);
      addCall(own.group, entry);
      own.places.push(place++);
    }
    const results = new Array<Verdict | Fault>(entries.length);
    const accepting = [...groups].map(async ([partition, { group, places }]) => {
      const own = await runGroup(partition, group).catch((fault: Fault) => places.map(() => fault));
      for (const [i, place] of places.entries()) results[place] = own[i] as Verdict | Fault;
    });
    await Promise.all(accepting);
    return results;
  };

  const acceptPart: AcceptPart = (requester, { id, fingerprint, entries, bytes }) => {
    checkPending(requester.projectId, entries.length);
    const partition = chunkPartitions.assignTogether(requester.projectId, entries);
    const group = createGroup(requester, partition, { id, fingerprint });
    for (const entry of entries) addCall(group, entry, bytes);
    return runGroup(partition, group);
  };

  return {
    acceptEntry,
    acceptEntries,
    acceptPart,
    pending: () => chunks.pending,
    chunksInFlight: () => chunks.inFlight,
  };
}

/** Sets the place of each group. Each chunk, which has one priority, gets consecutive versions. */
function inOrderOfPriority(groups: CallGroup[]): Call[] {
  const calls: Call[] = [];
  for (const group of groups.toSorted((a, b) => a.priority - b.priority)) {
    group.first = calls.length;
    for (const call of group.calls) calls.push(call); // `flatMap` is slower
  }
  return calls;
}
