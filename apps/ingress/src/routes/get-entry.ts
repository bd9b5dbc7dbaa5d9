import { Fault, parseCustomerId, toCustomerAnswer } from '@opm/contract';
import { GroupCommit, withTimeout } from '@opm/core';
import type { Claim, EntryQueue } from '@opm/queue';
import type { Customers, StoredCustomer } from '@opm/store';
import type { RequestHandler } from 'express';
import type { TimeBudget } from '../config.js';
import type { Overload } from '../guards/overload.js';
import type { Reply } from '../http/reply.js';
import { contextOf } from '../http/request-context.js';
import type { CircuitBreaker } from '../ingest/circuit-breaker.js';
import type { Partitions } from '../ingest/partitions.js';

/**
 * GET /entry/{customerId}: returns the stored customer and whether something newer is pending. Acknowledged entries
 * count at once: a customer whose first entry is pending exists, and one whose erasure is pending does not. If a newer
 * entry follows the erasure, the answer shows the row as it is, with pending true until both are persisted.
 */
export function getEntry(deps: {
  overload: Pick<Overload, 'checkRead'>;
  findCustomer: FindCustomer;
  reply: Reply;
}): RequestHandler {
  const { overload, findCustomer, reply } = deps;
  return async (request, response) => {
    overload.checkRead();
    const customerId = parseCustomerId(request.params.customerId);
    const { stored, claim } = await findCustomer(contextOf(response).projectId, customerId);
    if (claim?.erased) throw new Fault('CUSTOMER_ERASED');
    if (!stored && !claim) throw new Fault('CUSTOMER_UNKNOWN');
    reply.json(response, 200, JSON.stringify(toCustomerAnswer(customerId, stored, claim !== undefined)));
  };
}

/** The row of a customer, and the claim of the newest entry or erasure that is not persisted yet. */
type FoundCustomer = { stored: StoredCustomer | undefined; claim: Claim | undefined };

/** @throws Fault CUSTOMERS_UNAVAILABLE within `ANSWER_TIMEOUT_MS` */
export type FindCustomer = (projectId: number, customerId: string) => Promise<FoundCustomer>;

const MAX_CUSTOMERS = 200;
const MAX_READS_IN_FLIGHT_PER_PARTITION = 4;

/**
 * Concurrent reads share bulk calls. Rows and claims are read in separate calls, so that a queue store that hangs does
 * not block the PostgreSQL reads of others. Few row reads run at a time, so that the look-ups have connections left.
 */
export function createFindCustomer(deps: {
  readClaims: EntryQueue['readClaims'];
  findMany: Customers['findMany'];
  partitions: Partitions;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  /** Maximum calls of `findMany` at the same time. */
  maxInFlight: number;
  breaker: CircuitBreaker;
}): FindCustomer {
  const { readClaims, findMany, partitions, budget, maxInFlight, breaker } = deps;

  const rows = new GroupCommit<number, string, StoredCustomer | undefined>({
    async commit(projectId, customerIds) {
      const found = await breaker.run(() => withTimeout(findMany(projectId, customerIds), budget.workMs));
      return customerIds.map((customerId) => found.get(customerId));
    },
    maxBatch: MAX_CUSTOMERS,
    maxInFlight,
    expiry: { maxWaitMs: budget.workMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
  });

  const reads = new GroupCommit<number, string, FoundCustomer>({
    commit(partition, customerIds) {
      const { projectId, shard } = partitions.fromPartition(partition);
      return withTimeout(read(shard, projectId, customerIds), budget.workMs);
    },
    maxBatch: MAX_CUSTOMERS,
    ...partitions.toLimits(MAX_READS_IN_FLIGHT_PER_PARTITION),
    expiry: { maxWaitMs: budget.turnMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
  });

  /**
   * Reads the claims first: an entry without a claim is already in its row. In the other order, it could be in neither.
   */
  async function read(shard: number, projectId: number, customerIds: string[]): Promise<FoundCustomer[]> {
    const claims = await readClaims(
      shard,
      projectId,
      customerIds.map((customerId) => ({ customerId })),
    );
    const stored = await Promise.all(customerIds.map((customerId) => rows.run(projectId, customerId)));
    return customerIds.map((_customerId, i) => ({ stored: stored[i], claim: claims[i] }));
  }

  return async (projectId, customerId) => {
    if (breaker.isOpen) throw new Fault('CUSTOMERS_UNAVAILABLE');
    return reads.run(partitions.toPartition(projectId, customerId), customerId).catch((cause) => {
      throw new Fault('CUSTOMERS_UNAVAILABLE', { cause });
    });
  };
}
