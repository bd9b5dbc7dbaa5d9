import { Fault } from '@opm/contract';
import { type CustomerEntry, GroupCommit, withTimeout } from '@opm/core';
import type { Admitted, EntryQueue } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { LRUCache } from 'lru-cache';
import type { FindExisting } from './find-existing.js';
import type { Lanes } from './lanes.js';
import type { TimeBudget } from './time-budget.js';

/** What a partner says of a customer: the entry of a POST, or an erasure. */
export type Said = Omit<CustomerEntry, 'version'>;

/** Who waits for the answer, over which connection, and since when, in ms as `performance.now()` has it. */
export type Requester = { projectId: number; startedAt: number; socket: { readonly destroyed: boolean } };

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

type Call = { requester: Requester; entry: Said };

/** Whether the customer was known before this entry: the difference between 202 and 201, or 404 for an erasure. */
export type Verdict = { existed: boolean };

export type AcceptEntryDeps = {
  queue: Pick<EntryQueue, 'admit' | 'release' | 'enqueue'>;
  findExisting: FindExisting;
  lanes: Lanes;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs' | 'replyMs'>;
  maxEntries: number;
  /** Chunks of one project and shard on their way at the same time. */
  maxInFlight: number;
  /** Entries that may wait for their acknowledgement at the same time. */
  maxPending: number;
  /** Whether a request that began then may have been given up while this process stood still. */
  isStale: (startedAt: number) => boolean;
  onChunk: (entries: number) => void;
  onShed: (reason: 'in-flight' | 'waited', entries?: number) => void;
  logger: Logger;
};

/** After an erasure, for so long, entries are enqueued after their look-up: a worker may be faster than that. */
const REMEMBER_ERASED_MS = 60_000;
const MAX_REMEMBERED = 10_000;

/** Concurrent entries of one project and shard become one chunk: one admission, one look-up, one job. */
export function createAcceptEntry(deps: AcceptEntryDeps) {
  const { queue, findExisting, lanes, budget, maxEntries, maxInFlight, maxPending } = deps;
  const { isStale, onChunk, onShed, logger } = deps;

  const warnRefused = createSparseWarning(logger, 'entries are not accepted');
  /** Customers whose erasure came here a moment ago. */
  const erased = new LRUCache<string, true>({ max: MAX_REMEMBERED, ttl: REMEMBER_ERASED_MS, ttlResolution: 1_000 });

  const chunks = new GroupCommit<number, Call, Verdict>({
    commit(lane, calls) {
      const { projectId, shard } = lanes.fromLane(lane);
      const entries = calls.map(({ entry }) => entry);
      return withTimeout(acceptChunk(projectId, shard, entries), budget.workMs).catch(refuse);
    },
    maxBatch: maxEntries,
    ...lanes.toLimits(maxInFlight),
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

  async function acceptChunk(projectId: number, shard: number, entries: Said[]): Promise<Verdict[]> {
    const deadline = performance.now() + budget.workMs;
    let admitted: Admitted[] = [];
    try {
      const admittance = await queue.admit(shard, projectId, entries);
      admitted = admittance.admitted;
      // After the admission, or another ingress could slip in between; beside the enqueue, for it knows our own rows.
      const unclaimed = admitted.filter(({ previous }) => !previous);
      const lookUp = findExisting({ projectId, asked: unclaimed, deadline: deadline - budget.replyMs });
      rememberErased(projectId, entries);
      if (isAboutErased(projectId, entries)) await lookUp; // their rows will not tell what was there before
      // Its partners have been told by now that it was not accepted, and may have sent something newer.
      if (performance.now() > deadline) throw new Fault('QUEUE_UNAVAILABLE');
      const chunk = { projectId, entries: toEntries(entries, admitted) };
      const jobId = await queue.enqueue(shard, chunk, admittance.backlog);
      const existing = await lookUp;
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

  function rememberErased(projectId: number, entries: Said[]): void {
    for (const { customerId, erase } of entries) if (erase) erased.set(`${projectId}:${customerId}`, true);
  }

  function isAboutErased(projectId: number, entries: Said[]): boolean {
    return erased.size > 0 && entries.some(({ customerId }) => erased.has(`${projectId}:${customerId}`));
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

  function checkPending(entries: number): void {
    if (chunks.pending < maxPending) return;
    onShed('in-flight', entries);
    throw new Fault('OVERLOADED');
  }

  const acceptEntry: AcceptEntry = (requester, entry) => {
    checkPending(1);
    return chunks.run(lanes.toLane(requester.projectId, entry.customerId), { requester, entry });
  };

  const acceptEntries: AcceptEntries = async (requester, entries) => {
    checkPending(entries.length);
    // Together per lane: two admissions that are under way at the same time may be decided in either order.
    const calls = entries.map((entry) => ({
      lane: lanes.toLane(requester.projectId, entry.customerId),
      item: { requester, entry },
    }));
    const outcomes = await chunks.runAll(calls);
    return outcomes.map((outcome) => ('result' in outcome ? outcome.result : (outcome.error as Fault)));
  };
  return { acceptEntry, acceptEntries, pending: () => chunks.pending, chunksInFlight: () => chunks.inFlight };
}

/** Each entry with the version that it got. */
function toEntries(entries: Said[], admitted: Admitted[]): CustomerEntry[] {
  return entries.map((said, i) => {
    const version = admitted[i]?.version;
    if (version === undefined) throw new Error('admission must answer for every entry');
    const entry: CustomerEntry = { customerId: said.customerId, version }; // not spread: that is slow, for every entry
    if (said.fields) entry.fields = said.fields;
    if (said.erase) entry.erase = true;
    return entry;
  });
}
