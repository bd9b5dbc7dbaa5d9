import type pg from 'pg';
import {
  type BucketCall,
  BucketLocked,
  createTokenBuckets,
  PARTS_PER_TOKEN,
  type Reserved,
  type TokenBuckets,
} from '../token-buckets.js';

type LeasedRow = { place: number; granted: string; available: string; clock: string };

/** Calls the function that the migration `lease_many` defines. */
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
      const reserved = calls.map(
        (): Reserved | BucketLocked => new BucketLocked('another session has locked the bucket'),
      );
      for (const { place, granted, available, clock } of rows) {
        reserved[place - 1] = {
          granted: Number(granted),
          available: Number(available) / PARTS_PER_TOKEN,
          clock: Number(clock),
        };
      }
      return reserved;
    },
    maxWaitMs,
  });
}
