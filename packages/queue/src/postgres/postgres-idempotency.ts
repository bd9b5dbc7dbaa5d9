import type pg from 'pg';
import { type Idempotency, type PartRecord, toMaxBytes, toRecordBytes } from '../idempotency.js';

export type RecordRow = { fingerprint: string; version: string; state: string };

type FoundRow = RecordRow & { n: number };

/** All columns are null if the request had no record. */
type RememberedRow = RecordRow | { [Column in keyof RecordRow]: null };

/** Parts per statement. More would let a record take up to half as much space again; fewer would take more calls. */
const CLOSED_PARTS = 50;

/** Pages per statement of a sweep. A page has about 100 records. */
const SWEEP_PAGES = 100;

/** Rows per statement, of the tables of the previous release. */
const SWEEP_ROWS = 10_000;

/** Calls the functions that the migration `idempotency_records` defines. */
export function createPostgresIdempotency(pool: pg.Pool): Idempotency {
  return {
    async remember(shard, requests) {
      const { rows } = await pool.query<RememberedRow>({
        name: 'remember',
        text: 'SELECT * FROM admission.remember($1, $2, $3, $4, $5)',
        values: [
          shard,
          toIds(requests),
          requests.map(({ fingerprint }) => fingerprint),
          requests.map(({ projectId }) => projectId),
          requests.map(() => toRecordBytes(0)),
        ],
      });
      if (rows.length !== requests.length) throw new Error('PostgreSQL must return a row per request');
      return rows.map((row) => (row.version === null ? undefined : toRecord(row)));
    },

    async read(shard, ids) {
      const { rows } = await pool.query<FoundRow>({
        name: 'read-records',
        text: 'SELECT * FROM admission.read_records($1, $2)',
        values: [shard, ids.map(toBytes)],
      });
      const records: (PartRecord | undefined)[] = ids.map(() => undefined);
      for (const row of rows) records[row.n - 1] = toRecord(row);
      return records;
    },

    async close(shard, parts) {
      const merged = new Map<number, string>();
      // A page of the table has room for few new states until a commit frees the states that they replace.
      for (let i = 0; i < parts.length; i += CLOSED_PARTS) {
        const some = parts.slice(i, i + CLOSED_PARTS);
        const { rows } = await pool.query<{ n: number; state: string }>({
          name: 'close-parts',
          text: 'SELECT * FROM admission.close_parts($1, $2, $3, $4)',
          values: [shard, toIds(some), some.map(({ version }) => version), some.map(({ state }) => state)],
        });
        for (const { n, state } of rows) merged.set(i + n - 1, state);
      }
      return merged;
    },

    async readBytes(shard, projectId) {
      const { rows } = await pool.query<{ bytes: string }>({
        name: 'read-record-bytes',
        text: `
          SELECT admission.read_record_bytes(
            admission.now_version((SELECT last_version FROM admission.shards WHERE shard = $1)), $2
          ) AS bytes`,
        values: [shard, projectId],
      });
      return Number(rows[0]?.bytes);
    },

    maxBytes: () => toMaxBytes(0),

    forget: async () => {}, // restored with the rows and the jobs

    async sweep() {
      await pool.query(`
        DELETE FROM admission.idempotency_record_bytes
        WHERE period < admission.record_period(admission.now_version(NULL)) - 2`);
      const { rows } = await pool.query<{ pages: string }>(`
        SELECT pg_relation_size('admission.idempotency_records') / current_setting('block_size')::bigint AS pages`);
      let swept = 0;
      for (let page = 0; page < Number(rows[0]?.pages); page += SWEEP_PAGES) {
        const text = 'SELECT admission.sweep_records($1, $2) AS removed';
        const removed = await pool.query<{ removed: string }>(text, [page, SWEEP_PAGES]);
        swept += Number(removed.rows[0]?.removed);
      }
      return swept + (await sweepKeys());
    },
  };

  /** Removes the expired responses of the previous release. */
  async function sweepKeys(): Promise<number> {
    const text = `
      DELETE FROM admission.idempotency_keys
      WHERE id = ANY (ARRAY(
        SELECT id FROM admission.idempotency_keys WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))`;
    await pool.query('DELETE FROM admission.idempotency_bytes WHERE ends_at < now()');
    for (let swept = 0; ; ) {
      const { rowCount } = await pool.query(text, [SWEEP_ROWS]);
      swept += rowCount ?? 0;
      if ((rowCount ?? 0) < SWEEP_ROWS) return swept;
    }
  }
}

export const toRecord = ({ fingerprint, version, state }: RecordRow): PartRecord => ({
  fingerprint,
  version: Number(version),
  state,
});

/** The table stores the bytes that an id encodes, which are shorter than its text. */
const toBytes = (id: string) => Buffer.from(id, 'base64url');

export const toIds = (records: { id: string }[]): Buffer[] => records.map(({ id }) => toBytes(id));
