import type { Version } from '@opm/core';
import type pg from 'pg';
import { toStoreError } from './store-error.js';

/**
 * One row in PostgreSQL. No customer and no dead letter has a version above it. A queue that does not know its last
 * versions starts above the mark, even if its clock is behind.
 */
export type HighWaterMark = {
  /** Raises the mark to the versions if it is below them, then calls `write`. @throws StoreError */
  write<T>(versions: Version[], write: () => Promise<T>): Promise<T>;
  /** Reads the mark again before the next write, because after a lost connection another server may have taken over. */
  forget(): void;
  /** Notes that each acknowledged entry below this version is a row or a dead letter. @throws StoreError */
  noteFinished(before: Version): Promise<void>;
  /**
   * `newestAtLeast`: the mark less its margin; the newest row may be as old as this. `finishedBefore`: the version last
   * noted, 0 if there is none. @throws StoreError
   */
  read(): Promise<{ newestAtLeast: Version; finishedBefore: Version }>;
};

/** Microseconds above the version to which the mark is raised, so that a worker raises it about once a second. */
const MARGIN_US = 1_000_000;

const RAISE = `
  INSERT INTO high_water_mark AS mark (version) VALUES ($1::bigint + $2)
  ON CONFLICT (is_only) DO UPDATE
  SET version = CASE WHEN mark.version < $1::bigint THEN excluded.version ELSE mark.version END
  RETURNING version`;

export function createHighWaterMark(pool: Pick<pg.Pool, 'query'>): HighWaterMark {
  let known = 0;

  async function raise(version: Version): Promise<void> {
    const query = { name: 'raise-mark', text: RAISE, values: [version, MARGIN_US] };
    const { rows } = await pool.query<{ version: string }>(query);
    known = Number(rows[0]?.version);
  }

  function forget(): void {
    known = 0;
  }

  return {
    write: (versions, write) =>
      toStoreError(async () => {
        try {
          const newest = versions.reduce((a, b) => Math.max(a, b), 0);
          if (newest > known) await raise(newest);
          return await write();
        } catch (error) {
          forget();
          throw error;
        }
      }),
    forget,
    async noteFinished(before) {
      await toStoreError(() => pool.query('UPDATE high_water_mark SET finished_before = $1', [before]));
    },
    async read() {
      const text = 'SELECT version, finished_before FROM high_water_mark';
      const query = () => pool.query<{ version: string; finished_before: string }>(text);
      const { rows } = await toStoreError(query);
      const version = Number(rows[0]?.version ?? 0);
      return { newestAtLeast: version - MARGIN_US, finishedBefore: Number(rows[0]?.finished_before ?? 0) };
    },
  };
}
