import { GroupCommit, type RateLimit } from '@opm/core';

/** `wanted` tokens, and `returned` ones that were leased before and have not been used. */
export type LeaseCall = { wanted: number; returned: number };

/** `granted` tokens out of those wanted; `available` are left, with fractions; `clock` is the server's, in microseconds. */
export type Leased = { granted: number; available: number; clock: number };

/**
 * One bucket of tokens per project, for all shards and processes: a token lets one entry through. It holds `burst` tokens
 * at most and gains `rate` of them per second. This is GCRA, the generic cell rate algorithm of ITU-T I.371, in its form as
 * a continuous-state leaky bucket: what is kept is the debt, the tokens that are missing, and when it was counted. The
 * debt is counted in millionths and the time in microseconds, so that nothing is ever rounded.
 *
 * With another limit than before the debt stays, but no more of it than the new burst.
 */
export type TokenBuckets = {
  /** In one atomic step. Of tokens that come back to a bucket which is full already, nothing is gained. */
  lease(projectId: number, limit: RateLimit, call: LeaseCall): Promise<Leased>;
};

export const PARTS_PER_TOKEN = 1_000_000;

/** Two processes may lease tokens of one project at the same time, and a disk may be slow. */
export class BucketHeld extends Error {
  override name = 'BucketHeld';
}

/** What is asked of one bucket. */
export type BucketCall = LeaseCall & RateLimit & { projectId: number };

/** A call takes as long for one bucket as for ten. */
const MAX_CALLS = 200;
const MAX_IN_FLIGHT = 2;

type Pending = BucketCall & { deadline: number };

/**
 * Leases tokens of many projects with one call of their store.
 * @param options.place of a project's bucket: those in the same place share calls
 * @param options.leaseMany answers per bucket, in order
 * @param options.maxWaitMs how long its caller waits. In the second half of it no call begins: the tokens of one that ends too
 * late are lost
 */
export function createTokenBuckets(options: {
  place: (projectId: number) => number;
  leaseMany: (place: number, calls: BucketCall[]) => Promise<(Leased | BucketHeld)[]>;
  maxWaitMs: number;
}): TokenBuckets {
  const { place, leaseMany, maxWaitMs } = options;
  const tooLate = () => new Error('the buckets do not answer');
  const calls = new GroupCommit<number, Pending, Leased>({
    commit: leaseMany,
    maxBatch: MAX_CALLS,
    maxInFlight: Number.POSITIVE_INFINITY, // one place may be on a master that hangs
    maxInFlightPerLane: MAX_IN_FLIGHT,
    refuse: ({ deadline }) => (performance.now() > deadline ? tooLate() : undefined),
    expiry: { maxWaitMs, toError: tooLate },
  });
  return {
    async lease(projectId, limit, call) {
      const deadline = performance.now() + maxWaitMs / 2;
      for (;;) {
        try {
          return await calls.run(place(projectId), { projectId, ...limit, ...call, deadline });
        } catch (error) {
          if (!(error instanceof BucketHeld) || performance.now() > deadline) throw error;
        }
      }
    },
  };
}
