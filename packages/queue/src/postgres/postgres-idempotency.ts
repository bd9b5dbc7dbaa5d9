import type pg from 'pg';
import { type Idempotency, type KeyedRequest, type Known, toMaxKeptBytes } from '../idempotency.js';

/** Nothing if the request is the first one; an empty fingerprint if there is no room; without a status it is in flight. */
type FoundRow = { fingerprint: string | null; status: number | null; body: string | null };

const SWEPT_AT_ONCE = 10_000;

/** The functions of the migration `idempotency_share`, called. */
export function createPostgresIdempotency(pool: pg.Pool): Idempotency {
  return {
    async begin(_shard, projectId, requests, leaseMs) {
      const { rows } = await pool.query<FoundRow>({
        name: 'begin-keyed',
        text: 'SELECT * FROM admission.begin_keyed($1, $2, $3, $4, $5, $6)',
        values: [...toColumns(requests), `${leaseMs} milliseconds`, projectId, toMaxKeptBytes(0)],
      });
      return requests.map((request, i) => toKnown(rows[i], request));
    },

    async end(_shard, projectId, requests, keepMs) {
      const { rows } = await pool.query<FoundRow>({
        name: 'end-keyed',
        text: 'SELECT * FROM admission.end_keyed($1, $2, $3, $4, $5, $6, $7)',
        values: [
          ...toColumns(requests),
          requests.map(({ answer }) => answer?.status ?? null),
          requests.map(({ answer }) => answer?.body ?? null),
          `${keepMs} milliseconds`,
          projectId,
        ],
      });
      return requests.map((request, i) => toKnown(rows[i], request));
    },

    async sweep() {
      const text = `
        DELETE FROM admission.idempotency_keys
        WHERE id = ANY (ARRAY(
          SELECT id FROM admission.idempotency_keys WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))`;
      await pool.query('DELETE FROM admission.idempotency_bytes WHERE ends_at < now()');
      let swept = 0;
      for (;;) {
        const { rowCount } = await pool.query(text, [SWEPT_AT_ONCE]);
        swept += rowCount ?? 0;
        if ((rowCount ?? 0) < SWEPT_AT_ONCE) return swept;
      }
    },
  };
}

function toColumns(requests: KeyedRequest[]): string[][] {
  return [
    requests.map(({ id }) => id),
    requests.map(({ fingerprint }) => fingerprint),
    requests.map(({ token }) => token),
  ];
}

function toKnown(row: FoundRow | undefined, { fingerprint }: KeyedRequest): Known {
  if (!row) throw new Error('there must be an answer for every request');
  if (row.fingerprint === null) return { state: 'first' };
  if (row.fingerprint === '') return { state: 'no-room' };
  if (row.fingerprint !== fingerprint) return { state: 'other' };
  if (row.status === null) return { state: 'in-flight' };
  return { state: 'answered', answer: { status: row.status, body: row.body ?? '' } };
}
