import type pg from 'pg';
import { type Idempotency, type KeyedRequest, type KeyState, toMaxStoredBytes } from '../idempotency.js';

/** All null if the request is the first; an empty fingerprint if there is no room; a null status if it is in flight. */
type FoundRow = { fingerprint: string | null; status: number | null; body: string | null };

/** Rows per statement of a sweep. */
const SWEEP_ROWS = 10_000;

/** Calls the functions that the migration `idempotency_share` defines. */
export function createPostgresIdempotency(pool: pg.Pool): Idempotency {
  return {
    async begin(_shard, projectId, requests, lockMs) {
      const { rows } = await pool.query<FoundRow>({
        name: 'begin-keyed',
        text: 'SELECT * FROM admission.begin_keyed($1, $2, $3, $4, $5, $6)',
        values: [...toColumns(requests), `${lockMs} milliseconds`, projectId, toMaxStoredBytes(0)],
      });
      return requests.map((request, i) => toKeyState(rows[i], request));
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
      return requests.map((request, i) => toKeyState(rows[i], request));
    },

    async sweep() {
      const text = `
        DELETE FROM admission.idempotency_keys
        WHERE id = ANY (ARRAY(
          SELECT id FROM admission.idempotency_keys WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))`;
      await pool.query('DELETE FROM admission.idempotency_bytes WHERE ends_at < now()');
      let swept = 0;
      for (;;) {
        const { rowCount } = await pool.query(text, [SWEEP_ROWS]);
        swept += rowCount ?? 0;
        if ((rowCount ?? 0) < SWEEP_ROWS) return swept;
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

function toKeyState(row: FoundRow | undefined, { fingerprint }: KeyedRequest): KeyState {
  if (!row) throw new Error('PostgreSQL returned fewer rows than there are requests');
  if (row.fingerprint === null) return { state: 'first' };
  if (row.fingerprint === '') return { state: 'no-room' };
  if (row.fingerprint !== fingerprint) return { state: 'other' };
  if (row.status === null) return { state: 'in-flight' };
  return { state: 'answered', answer: { status: row.status, body: row.body ?? '' } };
}
