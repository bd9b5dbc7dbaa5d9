import { singleFlight, type Version } from '@opm/core';
import pg from 'pg';
import type { Role } from '../queue-store.js';

/** Reads the version in PostgreSQL that no row is above. A Redis that has lost its versions must start above it. */
export type HighWaterMarkReader = {
  /** The mark when this process started. Undefined if PostgreSQL did not answer, or if the role is not `producer`. */
  atStart: Promise<Version | undefined>;
  /**
   * The current mark. Concurrent calls share one query.
   * @throws the error of PostgreSQL, or of the timeout, within `answerTimeoutMs`
   */
  read(): Promise<Version>;
  close(): Promise<void>;
};

/** Connects on demand, which happens once or twice in the life of a process, and disconnects after a second. */
export function createHighWaterMarkReader(options: {
  databaseUrl: string;
  role: Role;
  /** The longest that a partner waits, in ms. */
  answerTimeoutMs: number;
}): HighWaterMarkReader {
  const { databaseUrl, role, answerTimeoutMs } = options;
  const timeoutMs = Math.ceil(answerTimeoutMs / 2);
  const timeouts = { connectionTimeoutMillis: timeoutMs, query_timeout: timeoutMs, idleTimeoutMillis: 1_000 };
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1, ...timeouts });
  pool.on('error', () => {}); // the pool has already dropped the connection

  async function query(): Promise<Version> {
    const { rows } = await pool.query<{ version: string }>('SELECT version FROM high_water_mark');
    const [mark] = rows;
    if (!mark) throw new Error('the table high_water_mark is empty: restore the row that its migration inserted');
    return Number(mark.version);
  }

  const read = singleFlight(query, answerTimeoutMs);
  const atStart = role === 'producer' ? read().catch(() => undefined) : Promise.resolve(undefined);
  return { atStart, read, close: () => pool.end() };
}
