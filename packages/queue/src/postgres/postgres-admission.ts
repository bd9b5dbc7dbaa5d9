import type { Version } from '@opm/core';
import type pg from 'pg';
import {
  type Admission,
  type AdmitRequest,
  type AdmitResult,
  type AdmittedAgain,
  type ClaimHolder,
  shardOf,
  toFound,
} from '../admission.js';
import { claimOf } from '../chunk.js';
import { findNew, type KeyedPart, type PartRecord, parseOpen, toOpenState, toRecordBytes } from '../idempotency.js';
import { type RecordRow, toIds, toRecord } from './postgres-idempotency.js';

type PreviousRow = { previous_version: string | null; previous_erased: boolean | null };

type AdmittedRow = PreviousRow & {
  version: string;
  /** The backlog of the entry's project, for some of the entries. */
  backlog: string | null;
  /** The bytes of the project's records, for some of the entries of parts. */
  record_bytes?: string | null;
};

/** An admitted entry of a new part. */
type NewRow = AdmittedRow & { part: null };

/** The record of a part that is known. `part`: its index. */
type KnownRow = RecordRow & { part: number };

type AgainRow = PreviousRow & { version: string; claim: string; holder: ClaimHolder };

type ClaimRow = { customer_id: string; version: string; erased: boolean };

type OldClaimRow = { project_id: number; customer_id: string; version: string };

/**
 * Lifetime of a claim: long enough to settle entries after a weekend without workers. Claims on Redis do not expire.
 */
const CLAIM_TTL_MS = 7 * 24 * 60 * 60 * 1000;

/** Rows per statement of a sweep. */
const SWEEP_ROWS = 10_000;

const SERIALIZATION_FAILURE = '40001';

/** Calls the functions that the migrations `admission` to `parts_beside_known_ones` define. */
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

    async admit(shard, entries, parts = []) {
      if (parts.length > 0) return admitKeyed(shard, entries, parts);
      const { rows } = await pool.query<AdmittedRow>({
        name: 'admit',
        text: 'SELECT * FROM admission.admit_entries($1, $2, $3, $4, $5, $6)',
        values: toValues(shard, entries),
      });
      return toResult(shard, entries, rows);
    },

    async admitAgain(shard, entries, parts) {
      const states = parts.map(({ record }) => parseOpen(record));
      const { rows } = await pool.query<AgainRow>({
        name: 'admit-again',
        text: 'SELECT * FROM admission.admit_again($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)',
        values: [
          ...toValues(shard, entries),
          toIds(parts),
          parts.map(({ first }) => first),
          parts.map(({ size }) => size),
          parts.map(({ record }) => record.version),
          parts.map(({ record }) => record.state),
          states.map(({ claim }) => claim),
          states.map(({ size, previous }) => toOpenState(size, previous)),
        ],
      });
      if (rows.length === 0) return undefined;
      if (rows.length !== entries.length) throw new Error('the parts must have all entries');
      received(shard, Number(rows.at(-1)?.claim));
      return rows.map((row, i): AdmittedAgain => {
        const { projectId, customerId } = entries[i] as AdmitRequest;
        const [version, claim, previous] = [Number(row.version), Number(row.claim), toPrevious(row)];
        const found = toFound(row.holder, { version, previous });
        return { projectId, customerId, version, claim, previous, found };
      });
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
        admitted.map(claimOf), // of an entry that was admitted again, too
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

    async readShardBacklog(shard) {
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

  async function admitKeyed(shard: number, entries: AdmitRequest[], parts: KeyedPart[]): Promise<AdmitResult> {
    const query = () =>
      pool.query<NewRow | KnownRow>({
        name: 'admit-parts',
        text: 'SELECT * FROM admission.admit_parts($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)',
        values: [
          ...toValues(shard, entries),
          toIds(parts),
          parts.map(({ fingerprint }) => fingerprint),
          parts.map(({ first }) => first),
          parts.map(({ size }) => size),
          parts.map(({ size }) => toRecordBytes(size)),
          toProjectIds(parts),
        ],
      });
    // Another request with the same key was remembered during the call. The second call finds its record.
    const { rows } = await query().catch((error) => {
      if (error.code !== SERIALIZATION_FAILURE) throw error;
      return query();
    });
    const admitted: AdmittedRow[] = [];
    const known: (PartRecord | undefined)[] = parts.map(() => undefined);
    for (const row of rows) {
      if (row.part === null) admitted.push(row);
      else known[row.part] = toRecord(row);
    }
    if (admitted.length === rows.length) return toResult(shard, entries, admitted);
    return { ...toResult(shard, findNew(entries, parts, known), admitted), known };
  }

  /** The arguments that all admissions have in common. */
  function toValues(shard: number, entries: AdmitRequest[]): unknown[] {
    return [
      shard,
      toProjectIds(entries),
      toCustomerIds(entries),
      entries.map(({ erase }) => erase === true),
      `${CLAIM_TTL_MS} milliseconds`,
      newest.get(shard),
    ];
  }

  function toResult(shard: number, entries: AdmitRequest[], rows: AdmittedRow[]): AdmitResult {
    if (rows.length !== entries.length) throw new Error('admission must return a row per entry');
    if (rows.length > 0) received(shard, Number(rows.at(-1)?.version));
    const result: AdmitResult = { admitted: [], backlogs: new Map(), recordBytes: new Map() };
    for (const [i, { projectId, customerId }] of entries.entries()) {
      const row = rows[i] as AdmittedRow;
      result.admitted.push({ projectId, customerId, version: Number(row.version), previous: toPrevious(row) });
      if (row.backlog !== null) result.backlogs.set(projectId, Number(row.backlog));
      if (typeof row.record_bytes === 'string') result.recordBytes.set(projectId, Number(row.record_bytes));
    }
    return result;
  }

  function received(shard: number, version: Version): void {
    newest.set(shard, Math.max(version, newest.get(shard) ?? 0));
  }

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

const toPrevious = ({ previous_version, previous_erased }: PreviousRow) =>
  previous_version === null ? undefined : { version: Number(previous_version), erased: previous_erased === true };

const toProjectIds = (entries: { projectId: number }[]) => entries.map(({ projectId }) => projectId);
const toCustomerIds = (entries: { customerId: string }[]) => entries.map(({ customerId }) => customerId);
