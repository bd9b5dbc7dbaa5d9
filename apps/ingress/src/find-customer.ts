import { Fault } from '@opm/contract';
import { GroupCommit, withTimeout } from '@opm/core';
import type { Claim, EntryQueue } from '@opm/queue';
import type { Customers, StoredCustomer } from '@opm/store';
import type { Lanes } from './lanes.js';
import type { OutagePause } from './outage-pause.js';
import type { TimeBudget } from './time-budget.js';

/** What is known of a customer: the row, and the claim of the newest entry or erasure that is not persisted yet. */
export type FoundCustomer = { stored: StoredCustomer | undefined; claim: Claim | undefined };

/** @throws Fault CUSTOMERS_UNAVAILABLE, within the time for an answer */
export type FindCustomer = (projectId: number, customerId: string) => Promise<FoundCustomer>;

const MAX_CUSTOMERS = 200;
const MAX_READS_IN_FLIGHT_PER_LANE = 4;

/**
 * Customers that are asked for at the same time are read together. Their rows are read apart from their claims, so that a
 * queue that hangs keeps nobody else from PostgreSQL, and few calls at a time, so that the look-ups have connections left.
 */
export function createFindCustomer(deps: {
  readClaims: EntryQueue['readClaims'];
  findMany: Customers['findMany'];
  lanes: Lanes;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  /** Calls of `findMany` at the same time. */
  maxInFlight: number;
  pause: OutagePause;
}): FindCustomer {
  const { readClaims, findMany, lanes, budget, maxInFlight, pause } = deps;

  const rows = new GroupCommit<number, string, StoredCustomer | undefined>({
    async commit(projectId, customerIds) {
      const found = await pause.run(() => withTimeout(findMany(projectId, customerIds), budget.workMs));
      return customerIds.map((customerId) => found.get(customerId));
    },
    maxBatch: MAX_CUSTOMERS,
    maxInFlight,
    expiry: { maxWaitMs: budget.workMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
  });

  const reads = new GroupCommit<number, string, FoundCustomer>({
    commit(lane, customerIds) {
      const { projectId, shard } = lanes.fromLane(lane);
      return withTimeout(read(shard, projectId, customerIds), budget.workMs);
    },
    maxBatch: MAX_CUSTOMERS,
    ...lanes.toLimits(MAX_READS_IN_FLIGHT_PER_LANE),
    expiry: { maxWaitMs: budget.turnMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
  });

  /** The claims first: what has none by then is in its row. The other way round, an entry could be in neither. */
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
    if (pause.isActive) throw new Fault('CUSTOMERS_UNAVAILABLE');
    return reads.run(lanes.toLane(projectId, customerId), customerId).catch((cause) => {
      throw new Fault('CUSTOMERS_UNAVAILABLE', { cause });
    });
  };
}
