import type pg from 'pg';
import {
  type BucketCall,
  BucketHeld,
  createTokenBuckets,
  type Leased,
  PARTS_PER_TOKEN,
  type TokenBuckets,
} from '../token-buckets.js';

type LeasedRow = { place: number; granted: string; available: string; clock: string };

/** The function of the migration `lease_many`, called. */
export function createPostgresTokenBuckets(pool: pg.Pool, { maxWaitMs }: { maxWaitMs: number }): TokenBuckets {
  return createTokenBuckets({
    place: () => 0,
    async leaseMany(_place, calls) {
      const column = (name: keyof BucketCall) => calls.map((call) => call[name]);
      const { rows } = await pool.query<LeasedRow>({
        name: 'lease-many',
        text: 'SELECT * FROM admission.lease_many($1, $2, $3, $4, $5)',
        values: (['projectId', 'rate', 'burst', 'wanted', 'returned'] as const).map(column),
      });
      const leased = calls.map((): Leased | BucketHeld => new BucketHeld('another session holds the bucket'));
      for (const { place, granted, available, clock } of rows) {
        leased[place - 1] = {
          granted: Number(granted),
          available: Number(available) / PARTS_PER_TOKEN,
          clock: Number(clock),
        };
      }
      return leased;
    },
    maxWaitMs,
  });
}
