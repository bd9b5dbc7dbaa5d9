import { GroupCommit, type RateLimit } from '@opm/core';

/** A token reservation: `wanted` tokens, and `returned` tokens that were reserved before and not used. */
export type ReserveCall = { wanted: number; returned: number };

/** Reserved tokens: `granted` of those wanted; `available` tokens left, fractional; `clock` of the server, in µs. */
export type Reserved = { granted: number; available: number; clock: number };

/**
 * One token bucket per project, for all shards and processes. A token lets one entry through. The bucket holds at most
 * `burst` tokens and gains `rate` tokens per second.
 *
 * The algorithm is GCRA, the generic cell rate algorithm of ITU-T I.371, as a continuous-state leaky bucket. The store
 * keeps the debt (missing tokens) and its time. The debt is in millionths of a token and the time in microseconds, so
 * nothing is rounded. If the limit changes, the debt stays, up to the new burst.
 */
export type TokenBuckets = {
  /** Reserves and returns tokens in one atomic step. Tokens returned to a full bucket are lost. */
  reserve(projectId: number, limit: RateLimit, call: ReserveCall): Promise<Reserved>;
};

export const PARTS_PER_TOKEN = 1_000_000;

/** Another session has locked the bucket to reserve tokens of the same project. On a slow disk, that takes a while. */
export class BucketLocked extends Error {
  override name = 'BucketLocked';
}

/** One call to one bucket, with the bucket's limit. */
export type BucketCall = ReserveCall & RateLimit & { projectId: number };

/** Buckets per call of the store. A call takes as long for one bucket as for ten. */
const MAX_CALLS = 200;
const MAX_IN_FLIGHT = 2;

type Pending = BucketCall & { deadline: number };

/**
 * Combines reservations of many projects into one call of the store.
 * @param options.groupOf group of a project's bucket; buckets of one group share calls
 * @param options.reserveMany returns one result per bucket, in order
 * @param options.maxWaitMs how long the caller of `reserve` waits. No call starts in its second half, because the
 * tokens of a late call are lost
 */
export function createTokenBuckets(options: {
  groupOf: (projectId: number) => number;
  reserveMany: (group: number, calls: BucketCall[]) => Promise<(Reserved | BucketLocked)[]>;
  maxWaitMs: number;
}): TokenBuckets {
  const { groupOf, reserveMany, maxWaitMs } = options;
  const tooLate = () => new Error('the token buckets did not answer in time');
  const calls = new GroupCommit<number, Pending, Reserved>({
    commit: reserveMany,
    maxBatch: MAX_CALLS,
    maxInFlight: Number.POSITIVE_INFINITY, // one group may be on a Redis master that hangs
    maxInFlightPerPartition: MAX_IN_FLIGHT,
    refuse: ({ deadline }) => (performance.now() > deadline ? tooLate() : undefined),
    expiry: { maxWaitMs, toError: tooLate },
  });
  return {
    async reserve(projectId, limit, call) {
      const deadline = performance.now() + maxWaitMs / 2;
      for (;;) {
        try {
          return await calls.run(groupOf(projectId), { projectId, ...limit, ...call, deadline });
        } catch (error) {
          if (!(error instanceof BucketLocked) || performance.now() > deadline) throw error;
        }
      }
    },
  };
}
