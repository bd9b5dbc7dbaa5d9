import type { Version } from '@opm/core';
import type pg from 'pg';
import { type Admission, type Admitted, CLAIM_TTL_MS, shardOf } from '../admission.js';
import { claimOf } from '../chunk.js';

type AdmittedRow = {
  version: string;
  previous_version: string | null;
  previous_erased: boolean | null;
  /** The backlog of the entry's project, for some of the entries. */
  backlog: string | null;
};

type ClaimRow = { customer_id: string; version: string; erased: boolean };

type OldClaimRow = { project_id: number; customer_id: string; version: string };

/** Rows per statement of a sweep. */
const SWEEP_ROWS = 10_000;

/** Calls the functions that the migrations `admission` to `mixed_chunks` define. */
export function createPostgresAdmission(pool: pg.Pool, shards: number): Admission {
  /** The newest version that this process received, by shard. */
  const newest = new Map<number, Version>();

  return {
    async setShards(count, instead = 0) {
      const { rows } = await pool.query<{ shards: number }>(
        `INSERT INTO admission.layout AS l (shards) VALUES ($1)
         ON CONFLICT (is_only) DO UPDATE SET shards = CASE l.shards WHEN $2 THEN excluded.shards ELSE l.shards END
         RETURNING shards`,
        [count, instead],
      );
      return rows[0]?.shards ?? count;
    },

    async readShards() {
      const { rows } = await pool.query<{ shards: number }>('SELECT shards FROM admission.layout');
      return rows[0]?.shards;
    },

    async admit(shard, entries) {
      const { rows } = await pool.query<AdmittedRow>({
        name: 'admit',
        text: 'SELECT * FROM admission.admit_entries($1, $2, $3, $4, $5, $6)',
        values: [
          shard,
          toProjectIds(entries),
          toCustomerIds(entries),
          entries.map(({ erase }) => erase === true),
          `${CLAIM_TTL_MS} milliseconds`,
          newest.get(shard),
        ],
      });
      newest.set(shard, Math.max(Number(rows.at(-1)?.version ?? 0), newest.get(shard) ?? 0));
      const admitted: Admitted[] = [];
      const backlogs = new Map<number, number>();
      for (const [i, { projectId, customerId }] of entries.entries()) {
        const { version = 0, previous_version = null, previous_erased = null, backlog = null } = rows[i] ?? {};
        const previous =
          previous_version === null
            ? undefined
            : { version: Number(previous_version), erased: previous_erased === true };
        admitted.push({ projectId, customerId, version: Number(version), previous });
        if (backlog !== null) backlogs.set(projectId, Number(backlog));
      }
      return { admitted, backlogs };
    },

    async readClaims(_shard, projectId, customers) {
      const { rows } = await pool.query<ClaimRow>(
        `SELECT customer_id, version, false AS erased, false AS is_claim FROM admission.pending_erasures
         WHERE project_id = $1 AND customer_id = ANY($2)
         UNION ALL
         SELECT customer_id, version, erased, true FROM admission.claims
         WHERE project_id = $1 AND customer_id = ANY($2) AND expires_at > now()
         ORDER BY is_claim`, // for a customer with both, the claim comes last and wins
        [projectId, customers.map(({ customerId }) => customerId)],
      );
      const claims = new Map(
        rows.map(({ customer_id, version, erased }) => [customer_id, { version: Number(version), erased }]),
      );
      return customers.map(({ customerId }) => claims.get(customerId));
    },

    async readmit(shard, entries) {
      const { rows } = await pool.query<{ project_id: number; backlog: string }>(
        'SELECT * FROM admission.readmit($1, $2, $3)',
        [shard, toProjectIds(entries), entries.map(claimOf)],
      );
      return new Map(rows.map(({ project_id, backlog }) => [project_id, Number(backlog)]));
    },

    async withdraw(shard, entries) {
      const values = [shard, toProjectIds(entries), entries.map(claimOf)];
      await pool.query('SELECT admission.count($1, $2, $3, -1)', values);
    },

    async release(shard, admitted) {
      await pool.query('SELECT admission.release_entries($1, $2, $3, $4, $5, $6)', [
        shard,
        toProjectIds(admitted),
        toCustomerIds(admitted),
        admitted.map(({ version }) => version),
        admitted.map(({ previous }) => previous?.version ?? null),
        admitted.map(({ previous }) => previous?.erased ?? null),
      ]);
    },

    async settle(shard, persisted) {
      await pool.query({
        name: 'settle',
        text: 'SELECT admission.settle($1, $2, $3, $4)',
        values: [shard, toProjectIds(persisted), toCustomerIds(persisted), persisted.map(claimOf)],
      });
    },

    countBacklog,

    async readWaiting(shard) {
      const entries = await countBacklog(shard);
      const { rows } = await pool.query<{ project_id: number; entries: string }>(
        'SELECT project_id, entries FROM admission.backlogs WHERE shard = $1 AND entries > 0',
        [shard],
      );
      return { entries, ofProjects: new Map(rows.map(({ project_id, entries }) => [project_id, Number(entries)])) };
    },

    async correctBacklog(shard, { entries, ofProjects }) {
      const values = [shard, entries, [...ofProjects.keys()], [...ofProjects.values()]];
      await pool.query('SELECT admission.correct_backlog($1, $2, $3, $4)', values);
    },

    async readVersion(shard) {
      const text = 'SELECT last_version FROM admission.shards WHERE shard = $1';
      const { rows } = await pool.query<{ last_version: string }>(text, [shard]);
      return rows[0] && Number(rows[0].last_version);
    },

    async sweep(shard, before) {
      for (const table of ['admission.claims', 'admission.pending_erasures']) {
        // The table has no shard column. Reads all claims that are old enough, and deletes those of the shard.
        for (let last = { project_id: 0, customer_id: '' }, isOver = false; !isOver; ) {
          const { rows } = await pool.query<OldClaimRow>(
            `SELECT project_id, customer_id, version FROM ${table}
             WHERE (project_id, customer_id) > ($1, $2) AND version < $3
             ORDER BY project_id, customer_id LIMIT $4`,
            [last.project_id, last.customer_id, before, SWEEP_ROWS],
          );
          const own = rows.filter((row) => shardOf(row.project_id, row.customer_id, shards) === shard);
          if (own.length > 0) await removeOld(table, own);
          last = rows.at(-1) ?? last;
          isOver = rows.length < SWEEP_ROWS;
        }
      }
    },
  };

  async function countBacklog(shard: number): Promise<number> {
    const text = 'SELECT waiting FROM admission.shards WHERE shard = $1';
    const { rows } = await pool.query<{ waiting: string }>({ name: 'count-backlog', text, values: [shard] });
    return Number(rows[0]?.waiting ?? 0);
  }

  /**
   * Skips rows that an admission has locked. Waiting for them could deadlock, because admissions lock in another
   * order.
   */
  async function removeOld(table: string, claims: OldClaimRow[]): Promise<void> {
    const text = `
      DELETE FROM ${table} WHERE (project_id, customer_id) IN (
        SELECT project_id, customer_id FROM ${table} AS old
        JOIN unnest($1::int[], $2::text[], $3::bigint[]) AS swept (project_id, customer_id, version)
          USING (project_id, customer_id, version)
        FOR UPDATE OF old SKIP LOCKED
      )`;
    await pool.query(text, [
      claims.map((claim) => claim.project_id),
      claims.map((claim) => claim.customer_id),
      claims.map((claim) => claim.version),
    ]);
  }
}

const toProjectIds = (entries: { projectId: number }[]) => entries.map(({ projectId }) => projectId);
const toCustomerIds = (entries: { customerId: string }[]) => entries.map(({ customerId }) => customerId);
