import type pg from 'pg';
import { type Admission, CLAIM_TTL_MS } from '../admission.js';

type AdmittedRow = {
  version: string;
  previous_version: string | null;
  previous_erased: boolean | null;
  backlog: string | null;
};

type ClaimRow = { customer_id: string; version: string; erased: boolean };

/** The functions of the migrations `admission` and `backlogs`, called. */
export function createPostgresAdmission(pool: pg.Pool): Admission {
  return {
    async setShards(shards, instead = 0) {
      const { rows } = await pool.query<{ shards: number }>(
        `INSERT INTO admission.layout AS l (shards) VALUES ($1)
         ON CONFLICT (is_only) DO UPDATE SET shards = CASE l.shards WHEN $2 THEN excluded.shards ELSE l.shards END
         RETURNING shards`,
        [shards, instead],
      );
      return rows[0]?.shards ?? shards;
    },

    async readShards() {
      const { rows } = await pool.query<{ shards: number }>('SELECT shards FROM admission.layout');
      return rows[0]?.shards;
    },

    async admit(shard, projectId, customers) {
      const { rows } = await pool.query<AdmittedRow>({
        name: 'admit',
        // The backlog is read as it was before this statement.
        text: `
          SELECT *, (SELECT entries FROM admission.backlogs WHERE shard = $1 AND project_id = $2) AS backlog
          FROM admission.admit($1, $2, $3, $4, $5)`,
        values: [
          shard,
          projectId,
          customers.map(({ customerId }) => customerId),
          customers.map(({ erase }) => erase === true),
          `${CLAIM_TTL_MS} milliseconds`,
        ],
      });
      const admitted = rows.map(({ version, previous_version, previous_erased }, i) => ({
        customerId: customers[i]?.customerId ?? '',
        version: Number(version),
        previous:
          previous_version === null
            ? undefined
            : { version: Number(previous_version), erased: previous_erased === true },
      }));
      return { admitted, backlog: Number(rows[0]?.backlog ?? 0) + customers.length };
    },

    async readClaims(_shard, projectId, customers) {
      const { rows } = await pool.query<ClaimRow>(
        `SELECT customer_id, version, erased FROM admission.claims
         WHERE project_id = $1 AND customer_id = ANY($2) AND expires_at > now()`,
        [projectId, customers.map(({ customerId }) => customerId)],
      );
      const claims = new Map(
        rows.map(({ customer_id, version, erased }) => [customer_id, { version: Number(version), erased }]),
      );
      return customers.map(({ customerId }) => claims.get(customerId));
    },

    async readmit(shard, projectId, entries) {
      const { rows } = await pool.query('SELECT admission.count_up($1, $2, $3) AS backlog', [
        shard,
        projectId,
        entries,
      ]);
      return Number(rows[0].backlog);
    },

    async release(shard, projectId, admitted) {
      await pool.query('SELECT admission.release($1, $2, $3, $4, $5, $6)', [
        shard,
        projectId,
        admitted.map(({ customerId }) => customerId),
        admitted.map(({ version }) => version),
        admitted.map(({ previous }) => previous?.version ?? null),
        admitted.map(({ previous }) => previous?.erased ?? null),
      ]);
    },

    async settle(shard, persisted) {
      await pool.query({
        name: 'settle',
        text: 'SELECT admission.settle($1, $2, $3, $4)',
        values: [
          shard,
          persisted.flatMap(({ projectId, entries }) => entries.map(() => projectId)),
          persisted.flatMap(({ entries }) => entries.map(({ customerId }) => customerId)),
          persisted.flatMap(({ entries }) => entries.map(({ version }) => version)),
        ],
      });
    },

    async countBacklog(shard) {
      const text = 'SELECT coalesce(sum(entries), 0) AS backlog FROM admission.backlogs WHERE shard = $1';
      const { rows } = await pool.query({ name: 'count-backlog', text, values: [shard] });
      return Number(rows[0].backlog);
    },

    async limitBacklog(shard, maxEntries) {
      // In the order of locks that the functions keep: the shard first, where something was admitted to it.
      const text = `
        WITH locked AS MATERIALIZED (SELECT FROM admission.shards WHERE shard = $1 FOR UPDATE)
        UPDATE admission.backlogs SET entries = $2 WHERE shard = $1 AND entries > $2 AND (SELECT count(*) FROM locked) >= 0`;
      await pool.query(text, [shard, maxEntries]);
    },

    async sweep(shard, olderThanMs, before = Number.MAX_SAFE_INTEGER) {
      if (shard !== 0) return; // one table has the claims of all
      // It takes no row that an admission has, nor waits for one: that takes them in an order of its own.
      const text = `
        DELETE FROM admission.claims WHERE (project_id, customer_id) IN (
          SELECT project_id, customer_id FROM admission.claims
          WHERE version < least(extract(epoch FROM now()) * 1000000 - $1::bigint * 1000, $2)
          FOR UPDATE SKIP LOCKED
        )`;
      await pool.query(text, [olderThanMs, before]);
    },
  };
}
