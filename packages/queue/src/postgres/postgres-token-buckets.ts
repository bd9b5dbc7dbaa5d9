import { GroupCommit, type RateLimit } from '@opm/core';
import type pg from 'pg';
import { type LeaseCall, type Leased, PARTS_PER_TOKEN, type TokenBuckets } from '../token-buckets.js';

type Call = LeaseCall & RateLimit & { projectId: number };

type LeasedRow = { place: number; granted: string; available: string; clock: string };

/** A statement takes as long for one bucket as for ten. */
const MAX_CALLS = 200;
const MAX_IN_FLIGHT = 2;

/** Two processes may lease tokens of one project at the same time, and a disk may be slow. */
class BucketHeld extends Error {
  override name = 'BucketHeld';
}

/** The function of the migration `lease_many`, called: once for all projects whose tokens are leased at the same time. */
export function createPostgresTokenBuckets(pool: pg.Pool, { maxWaitMs }: { maxWaitMs: number }): TokenBuckets {
  const calls = new GroupCommit<'all', Call, Leased>({
    maxBatch: MAX_CALLS,
    maxInFlight: MAX_IN_FLIGHT,
    async commit(_, some) {
      const column = (name: keyof Call) => some.map((call) => call[name]);
      const { rows } = await pool.query<LeasedRow>({
        name: 'lease-many',
        text: 'SELECT * FROM admission.lease_many($1, $2, $3, $4, $5)',
        values: (['projectId', 'rate', 'burst', 'wanted', 'returned'] as const).map(column),
      });
      const leased = some.map((): Leased | Error => new BucketHeld('another session holds the bucket'));
      for (const { place, granted, available, clock } of rows) {
        leased[place - 1] = {
          granted: Number(granted),
          available: Number(available) / PARTS_PER_TOKEN,
          clock: Number(clock),
        };
      }
      return leased;
    },
    // Nobody waits for it any more, and its tokens would be lost.
    expiry: { maxWaitMs, toError: () => new Error('the buckets do not answer') },
  });
  return {
    async lease(projectId, limit, call) {
      const deadline = performance.now() + maxWaitMs;
      for (;;) {
        try {
          return await calls.run('all', { projectId, ...limit, ...call });
        } catch (error) {
          if (!(error instanceof BucketHeld) || performance.now() > deadline) throw error;
        }
      }
    },
  };
}
