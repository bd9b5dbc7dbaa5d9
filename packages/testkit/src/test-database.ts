import { randomBytes } from 'node:crypto';
import { Redis } from 'ioredis';
import pg, { Client } from 'pg';

export interface TestDatabase {
  name: string;
  url: string;
  /** Drops the database and ends the sessions that are still connected. */
  drop(): Promise<void>;
}

interface DatabaseOptions {
  /** URL of a role that may create databases. */
  adminUrl: string;
  template?: string;
}

/**
 * Creates a migrated database for a test file.
 * @throws Error outside the integration run, whose setup creates the template
 */
export function createTestDatabase(): Promise<TestDatabase> {
  return createDatabase({ adminUrl: readEnv('OPM_TEST_ADMIN_URL'), template: readEnv('OPM_TEST_TEMPLATE') });
}

export async function createDatabase({ adminUrl, template = 'template1' }: DatabaseOptions): Promise<TestDatabase> {
  const name = testPrefix();
  const url = new URL(adminUrl);
  url.pathname = name;
  await execute(adminUrl, `CREATE DATABASE "${name}" TEMPLATE "${template}"`);
  return { name, url: url.href, drop: () => execute(adminUrl, `DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`) };
}

async function execute(connectionString: string, statement: string): Promise<void> {
  const client = new Client({ connectionString });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

function readEnv(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run the test with npm run test:integration.`);
  return value;
}

/** Returns a unique Redis prefix, which is also a valid database name. */
export function testPrefix(): string {
  return `opm_test_${randomBytes(6).toString('hex')}`;
}

/** Runs one statement on a new connection. */
export async function query<Row extends pg.QueryResultRow>(
  databaseUrl: string,
  statement: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: databaseUrl }).on('error', () => {}); // The query rejects as well.
  await client.connect();
  try {
    return (await client.query<Row>(statement, values)).rows;
  } finally {
    await client.end();
  }
}

/** Calls `use` with a new connection. */
export async function withRedis<T>(redisUrl: string, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(redisUrl).on('error', () => {});
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
}

/**
 * Whether another session waits for a lock that this client's session holds. Asks `pg_locks`, because a transaction
 * sees the same `pg_stat_activity` until its end.
 */
export async function isAwaited(client: pg.Client): Promise<boolean> {
  const text = 'SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))';
  return (await client.query(text)).rowCount !== 0;
}
