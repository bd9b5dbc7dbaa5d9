import type { RateLimit } from '@opm/core';

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
