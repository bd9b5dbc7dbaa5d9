import type { Version } from '@opm/core';
import pg from 'pg';
import type { Role } from '../queue-backend.js';

/** The version in PostgreSQL that no row is above: what a Redis that has lost its versions must not begin below. */
export type HighWaterMark = {
  /** As a producer found it when it started; undefined if PostgreSQL did not answer then, and for others. */
  atStart: Promise<Version | undefined>;
  /** As it is now; calls at the same time share one query. @throws the reason, in time for partners */
  read(): Promise<Version>;
  close(): Promise<void>;
};

/** Its connection is opened when it is needed, once or twice in the life of a process, and closed a second later. */
export function createHighWaterMark(options: {
  databaseUrl: string;
  role: Role;
  /** How long partners wait at most. */
  answerTimeoutMs: number;
}): HighWaterMark {
  const { databaseUrl, role, answerTimeoutMs } = options;
  const timeoutMs = Math.ceil(answerTimeoutMs / 2);
  const timeouts = { connectionTimeoutMillis: timeoutMs, query_timeout: timeoutMs, idleTimeoutMillis: 1_000 };
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1, ...timeouts });
  pool.on('error', () => {}); // the pool has dropped the connection
  let reading: Promise<Version> | undefined;

  async function query(): Promise<Version> {
    const { rows } = await pool.query<{ version: string }>('SELECT version FROM high_water_mark');
    const [mark] = rows;
    if (!mark) throw new Error('the table high_water_mark is empty: it must have the row that the migration gave it');
    return Number(mark.version);
  }

  function read(): Promise<Version> {
    reading ??= query().finally(() => {
      reading = undefined;
    });
    return reading;
  }

  const atStart = role === 'producer' ? read().catch(() => undefined) : Promise.resolve(undefined);
  return { atStart, read, close: () => pool.end() };
}
