import pg from 'pg';
import { toStoreError } from './store-error.js';

const TIMEOUT_MS = 5_000;

/**
 * Prisma's migration history, with finished and unfinished migrations:
 * https://www.prisma.io/docs/orm/prisma-migrate/understanding-prisma-migrate/migration-histories
 */
const FIND_MIGRATIONS = `
  SELECT migration_name AS name, finished_at IS NOT NULL AS "isFinished"
  FROM public._prisma_migrations WHERE rolled_back_at IS NULL`;
const UNDEFINED_TABLE = '42P01';

/**
 * Whether the database has all of these migrations and no unfinished one.
 * @throws StoreError within 10 s
 */
export function hasMigrations(databaseUrl: string, names: readonly string[]): Promise<boolean> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    connectionTimeoutMillis: TIMEOUT_MS,
    query_timeout: TIMEOUT_MS,
  });
  return toStoreError(async () => {
    try {
      await client.connect();
      const { rows } = await client.query<{ name: string; isFinished: boolean }>(FIND_MIGRATIONS);
      const found = new Set(rows.map(({ name }) => name));
      return rows.every(({ isFinished }) => isFinished) && names.every((name) => found.has(name));
    } catch (error) {
      if (error instanceof pg.DatabaseError && error.code === UNDEFINED_TABLE) return false;
      throw error;
    } finally {
      await client.end();
    }
  });
}
