import {
  type FateAnswer,
  type FatesAnswer,
  Fault,
  parseAskedReceipt,
  parseCustomerId,
  parseReceiptOf,
  type RefusedEntry,
  toCustomerAnswer,
  toRefusedEntry,
  toUnknownCustomer,
} from '@opm/contract';
import { GroupCommit, isStored, MAX_REFUSED_OF_CUSTOMER, type Receipt, type Version, withTimeout } from '@opm/core';
import { type Claim, type EntryQueue, shardOf, type VersionRange } from '@opm/queue';
import type { Customers, DeadLetters, VersionedCustomer } from '@opm/store';
import type { RequestHandler } from 'express';
import { LRUCache } from 'lru-cache';
import type { TimeBudget } from '../config.js';
import type { BatchMemory, Slices } from '../guards/batch-limits.js';
import type { Overload } from '../guards/overload.js';
import type { Inflate } from '../http/read-body.js';
import type { Reply } from '../http/reply.js';
import { contextOf } from '../http/request-context.js';
import type { CircuitBreaker } from '../ingest/circuit-breaker.js';
import { isCovered } from './get-project.js';
import { readElements } from './read-batch.js';

type GetDeps = { overload: Pick<Overload, 'checkRead'>; findCustomer: FindCustomer; reply: Reply };
type ReceiptDeps = Omit<GetDeps, 'findCustomer'> & { findEntryState: FindEntryState };

/** Whether an unfinished job holds the entry of this version. @throws Fault CUSTOMERS_UNAVAILABLE */
export type FindQueued = (projectId: number, entry: { customerId: string; version: Version }) => Promise<boolean>;

/**
 * GET /entry/{customerId}: returns the stored customer and whether something newer is pending. Acknowledged entries
 * count at once: a customer whose first entry is pending exists, and one whose erasure is pending does not. If a newer
 * entry follows the erasure, the answer shows the row as it is, with pending true until both are persisted. It also
 * shows the newest refused entries that nothing newer covers, in a 404 too.
 */
export function getEntry({ overload, findCustomer, reply }: GetDeps): RequestHandler {
  return async (request, response) => {
    overload.checkRead('CUSTOMERS_UNAVAILABLE');
    const customerId = parseCustomerId(request.params.customerId);
    const { row, claim, refused } = await findCustomer(contextOf(response).projectId, { customerId });
    if (claim?.erased) throw new Fault('CUSTOMER_ERASED'); // the erasure covers what was refused before it
    const shown = refused.filter((entry) => !isCovered(entry, row));
    if (row?.stored || claim) {
      reply.json(response, 200, JSON.stringify(toCustomerAnswer(customerId, row?.stored, claim !== undefined, shown)));
      return;
    }
    if (shown.length === 0) throw new Fault('CUSTOMER_UNKNOWN');
    reply.json(response, 404, JSON.stringify(toUnknownCustomer(shown)));
  };
}

/** GET /entry/{customerId}/receipts/{receipt}: tells whether an accepted entry was stored. */
export function getReceipt({ overload, findEntryState, reply }: ReceiptDeps): RequestHandler {
  return async (request, response) => {
    overload.checkRead('CUSTOMERS_UNAVAILABLE');
    const customerId = parseCustomerId(request.params.customerId);
    const receipt = parseReceiptOf(customerId, request.params.receipt);
    const answer = await findEntryState(contextOf(response).projectId, { customerId, receipt });
    reply.json(response, 200, JSON.stringify(answer));
  };
}

/** POST /entries/receipts: tells whether up to 1,000 entries were stored. It is a read, so it counts no entries. */
export function postReceipts(
  deps: ReceiptDeps & { memory: BatchMemory; slices: Pick<Slices, 'next'>; inflate: Inflate },
): RequestHandler {
  const { overload, findEntryState, memory, slices, inflate, reply } = deps;
  return async (request, response) => {
    const context = contextOf(response);
    const { projectId } = context;
    context.isCounted = true;
    overload.checkRead('CUSTOMERS_UNAVAILABLE');
    const held = memory.open(projectId);
    try {
      const options = { context, onPart: held.take, inflate, nextSlice: () => slices.next(projectId) };
      const entries = await readElements(request, options, parseAskedReceipt);
      context.receivedAt = performance.now(); // the duration of the upload does not count as time to answer
      const results = await Promise.all(entries.map((entry) => findEntryState(projectId, entry)));
      reply.json(response, 200, JSON.stringify({ statusCode: 200, results } satisfies FatesAnswer));
    } catch (error) {
      // OVERLOADED would say that an entry was not accepted, and this request reads.
      const isShed = error instanceof Fault && error.code === 'OVERLOADED';
      throw isShed ? new Fault('CUSTOMERS_UNAVAILABLE', { cause: error }) : error;
    } finally {
      held.release();
    }
  };
}

/** What became of an entry. @throws Fault CUSTOMERS_UNAVAILABLE within `ANSWER_TIMEOUT_MS` */
type FindEntryState = (projectId: number, entry: { customerId: string; receipt: Receipt }) => Promise<FateAnswer>;

/**
 * - stored: it took effect, or newer entries cover it.
 * - refused: PostgreSQL refused it.
 * - pending: it, or a newer entry of its customer, is in flight, or it was replayed.
 */
export function createFindEntryState(findCustomer: FindCustomer, findQueued: FindQueued): FindEntryState {
  return async (projectId, { customerId, receipt }) => {
    const { version } = receipt;
    const find = async () => toEntryState(receipt, await findCustomer(projectId, { customerId, version }));
    const answer = await find();
    if (answer.state !== 'unknown') return answer;
    // A newer entry of the customer that was persisted first has removed the claim. This one may wait in its job.
    const isQueued = await findQueued(projectId, { customerId, version });
    return isQueued ? { statusCode: 200, state: 'pending' } : find(); // its job may have just ended
  };
}

function toEntryState(receipt: Receipt, { row, claim, refused: [refused] }: CustomerWithClaim): FateAnswer {
  if (row && isStored(receipt, row)) return { statusCode: 200, state: 'stored' };
  if (refused && refused.state !== 'replayed') return { statusCode: 200, state: 'refused', refused };
  const isPending = refused !== undefined || (claim !== undefined && claim.version >= receipt.version);
  return { statusCode: 200, state: isPending ? 'pending' : 'unknown' };
}

const keyOf = ({ customerId, version }: CustomerQuery): string => `${version ?? ''}:${customerId}`;

/** A customer, or with a version, one of its entries. */
type CustomerQuery = { customerId: string; version?: Version };

/** The row of a customer, which may be a tombstone, and what PostgreSQL refused. */
type PersistedCustomer = { row: VersionedCustomer | undefined; refused: RefusedEntry[] };

/**
 * A customer with its claim: the newest entry or erasure not yet persisted. `refused`: the refused entries, newest
 * first; with a version, that entry if it is or was refused.
 */
type CustomerWithClaim = PersistedCustomer & { claim: Claim | undefined };

/** @throws Fault CUSTOMERS_UNAVAILABLE within `ANSWER_TIMEOUT_MS` */
export type FindCustomer = (projectId: number, query: CustomerQuery) => Promise<CustomerWithClaim>;

/** Maximum number of refused entries per read. A customer has up to `MAX_REFUSED_OF_CUSTOMER`, an entry has one. */
const MAX_REFUSED = 1_000;
const refusedOf = ({ version }: CustomerQuery): number => (version === undefined ? MAX_REFUSED_OF_CUSTOMER : 1);
/** Bulk calls in flight, divided among the shards. They wait for their stores and use little CPU. */
const MAX_READS_IN_FLIGHT = 64;
const MAX_READS_IN_FLIGHT_PER_PROJECT = 4;

/**
 * Concurrent reads of one project and shard share bulk calls. Rows and claims are read in separate calls, and each
 * shard has its own share of the calls in flight, so that a shard whose store hangs does not block the reads of others.
 * Few row reads run at a time, so that the look-ups have connections left.
 */
export function createFindCustomer(deps: {
  readClaims: EntryQueue['readClaims'];
  findVersioned: Customers['findVersioned'];
  findRefused: DeadLetters['findRefused'];
  shards: number;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  /** Maximum reads of PostgreSQL at the same time. */
  maxInFlight: number;
  breaker: CircuitBreaker;
}): FindCustomer {
  const { readClaims, findVersioned, findRefused, shards, budget, maxInFlight, breaker } = deps;

  /**
   * Reads the dead letters before the rows: an erasure writes the row before it deletes its customer's letters. In the
   * other order, an entry could be in neither.
   */
  async function readRows(projectId: number, queries: CustomerQuery[]): Promise<PersistedCustomer[]> {
    const places = new Map(queries.map((query) => [keyOf(query), query])); // many may be for the same customer
    const letters = await findRefused(projectId, [...places.values()]);
    const refused = new Map([...places.keys()].map((key, i) => [key, letters[i]?.map(toRefusedEntry) ?? []]));
    const rows = await findVersioned(projectId, [...new Set(queries.map(({ customerId }) => customerId))]);
    return queries.map((query) => ({ row: rows.get(query.customerId), refused: refused.get(keyOf(query)) ?? [] }));
  }

  const rows = new GroupCommit<number, CustomerQuery, PersistedCustomer>({
    commit: (projectId, queries) => breaker.run(() => withTimeout(readRows(projectId, queries), budget.workMs)),
    maxBatch: MAX_REFUSED,
    sizeOf: refusedOf,
    maxInFlight,
    expiry: { maxWaitMs: budget.workMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
  });

  const readsOfShards = Array.from({ length: shards }, (_, shard) => createReads(shard));

  function createReads(shard: number) {
    return new GroupCommit<number, CustomerQuery, CustomerWithClaim>({
      commit: (projectId, queries) => withTimeout(read(shard, projectId, queries), budget.workMs),
      maxBatch: MAX_REFUSED,
      sizeOf: refusedOf,
      maxInFlight: Math.max(Math.ceil(MAX_READS_IN_FLIGHT / shards), MAX_READS_IN_FLIGHT_PER_PROJECT),
      maxInFlightPerPartition: MAX_READS_IN_FLIGHT_PER_PROJECT,
      expiry: { maxWaitMs: budget.turnMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
    });
  }

  /**
   * Reads the claims first: an entry without a claim is already in its row, or a dead letter. In the other order, it
   * could be in neither.
   */
  async function read(shard: number, projectId: number, queries: CustomerQuery[]): Promise<CustomerWithClaim[]> {
    const claims = await readClaims(shard, projectId, queries);
    const persisted = await Promise.all(queries.map((query) => rows.run(projectId, query)));
    return persisted.map((customer, i) => ({ ...customer, claim: claims[i] }));
  }

  return async (projectId, query) => {
    if (breaker.isOpen) throw new Fault('CUSTOMERS_UNAVAILABLE');
    const reads = readsOfShards[shardOf(projectId, query.customerId, shards)] as ReturnType<typeof createReads>;
    return reads.run(projectId, query).catch((cause) => {
      throw new Fault('CUSTOMERS_UNAVAILABLE', { cause });
    });
  };
}

/** How long a list of the jobs of a shard is used. With a long backlog, a list costs the ingress 20 ms. */
const LIST_TTL_MS = 1_000;
const MAX_LISTS = 1_000;

/** Requests share a list of a shard's jobs for a second. Entries that may be newer than the list count as queued. */
export function createFindQueued(deps: {
  listJobs: (shard: number) => Promise<{ versions: VersionRange }[]>;
  shards: number;
  budget: Pick<TimeBudget, 'workMs'>;
}): FindQueued {
  const { listJobs, shards, budget } = deps;
  const lists = new LRUCache<number, Promise<VersionRange[]>>({ max: MAX_LISTS, ttl: LIST_TTL_MS });

  async function list(shard: number): Promise<VersionRange[]> {
    let listed = lists.get(shard);
    if (!listed) {
      const listing = listJobs(shard).then((jobs) => toDisjoint(jobs.map(({ versions }) => versions)));
      listed = withTimeout(listing, budget.workMs);
      lists.set(shard, listed);
    }
    return listed.catch((cause) => {
      lists.delete(shard);
      throw new Fault('CUSTOMERS_UNAVAILABLE', { cause });
    });
  }

  return async (projectId, { customerId, version }) => {
    const ranges = await list(shardOf(projectId, customerId, shards));
    const isRecent = version / 1_000 > Date.now() - 2 * LIST_TTL_MS;
    return isRecent || isWithin(ranges, version);
  };
}

/** Sorts the ranges and joins those that overlap. */
function toDisjoint(ranges: VersionRange[]): VersionRange[] {
  const disjoint: VersionRange[] = [];
  for (const [first, last] of ranges.sort(([a], [b]) => a - b)) {
    const before = disjoint.at(-1);
    if (before && first <= before[1]) before[1] = Math.max(before[1], last);
    else disjoint.push([first, last]);
  }
  return disjoint;
}

/**
 * A binary search: a thousand receipts may be looked for among 100,000 jobs.
 * @param ranges as `toDisjoint` returns them
 */
function isWithin(ranges: VersionRange[], version: Version): boolean {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ranges[middle] as VersionRange)[1] < version) low = middle + 1;
    else high = middle;
  }
  const range = ranges[low];
  return range !== undefined && range[0] <= version;
}
