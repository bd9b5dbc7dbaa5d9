import type pg from 'pg';
import { PARTS_PER_TOKEN, type TokenBuckets } from '../token-buckets.js';

type LeasedRow = { granted: string; available: string; clock: string };

/** The function of the migration `rate_limits`, called. */
export function createPostgresTokenBuckets(pool: pg.Pool): TokenBuckets {
  return {
    async lease(projectId, { rate, burst }, { wanted, returned }) {
      const { rows } = await pool.query<LeasedRow>({
        name: 'lease',
        text: 'SELECT * FROM admission.lease($1, $2, $3, $4, $5)',
        values: [projectId, rate, burst, wanted, returned],
      });
      const [leased] = rows as [LeasedRow];
      return {
        granted: Number(leased.granted),
        available: Number(leased.available) / PARTS_PER_TOKEN,
        clock: Number(leased.clock),
      };
    },
  };
}
