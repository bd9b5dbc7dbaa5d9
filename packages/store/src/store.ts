import { hash } from 'node:crypto';
import { FLUSH_COMMITS, withTimeout } from '@opm/core';
import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import { type ApiKeys, createApiKeys } from './api-keys.js';
import { type Customers, createCustomers } from './customers.js';
import { createDeadLetters, type DeadLetters } from './dead-letters.js';
import { PrismaClient } from './generated/client.js';
import { createHighWaterMark } from './high-water-mark.js';
import { createProjects, type Projects } from './projects.js';
import { toStoreError } from './store-error.js';
import { isUpsert } from './upsert-customers.js';

export type StoreOptions = {
  databaseUrl: string;
  /** What PostgreSQL lists these connections as. */
  applicationName: string;
  /** Connections in the pool. */
  poolSize?: number;
  /** How long one statement may take. */
  statementTimeoutMs?: number;
  /** How long to wait for the answer; as long as the statement may take, where it is not given. Longer, it tells what is slow from what is away. */
  answerTimeoutMs?: number;
  /** How long a statement may wait for a lock; as long as it may take, where it is not given. */
  lockTimeoutMs?: number;
  /** How long to wait for a connection. */
  connectTimeoutMs?: number;
  /** For whoever reads single rows only: whole tables are not read, however small they are when a plan is made. */
  byIndexOnly?: boolean;
};

export type Store = {
  projects: Projects;
  apiKeys: ApiKeys;
  customers: Customers;
  deadLetters: DeadLetters;
  /** Resolves when PostgreSQL answers and has our tables. @throws StoreError */
  ping(): Promise<void>;
  /** What PostgreSQL's clock says. */
  now(): Promise<Date>;
  close(): Promise<void>;
};

/**
 * Up to PostgreSQL 17 a scan that is off and cannot be avoided, as in `ping`, counts as so expensive that the statement would
 * be compiled first, for longer than a look-up may take.
 */
const BY_INDEX_ONLY = ' -c enable_seqscan=off -c jit=off';

/** A statement that nobody waits for any more must not keep the process: it is cut off when that ends. */
const CLOSE_TIMEOUT_MS = 3_000;

/** Opens the store. It connects on first use; every method throws {@link StoreError} and nothing else of Prisma's. */
export function createStore(options: StoreOptions): Store {
  const {
    databaseUrl,
    applicationName,
    poolSize = 2,
    statementTimeoutMs = 30_000,
    connectTimeoutMs = 30_000,
  } = options;
  const { answerTimeoutMs = statementTimeoutMs, lockTimeoutMs = 0, byIndexOnly = false } = options;
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: poolSize,
    idleTimeoutMillis: 0, // opening one takes as long as several statements, and the upsert is planned anew on each
    keepAlive: true, // or a firewall in between forgets those that are idle
    keepAliveInitialDelayMillis: 10_000,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    // The server's own timeout needs a server that answers; this one is for a connection that has gone silent.
    query_timeout: answerTimeoutMs,
    application_name: applicationName,
    // The adapter shifts timestamps by any other time zone.
    options: `-c TimeZone=UTC -c lock_timeout=${lockTimeoutMs}${byIndexOnly ? BY_INDEX_ONLY : ''}`,
    onConnect: (client) => client.query(FLUSH_COMMITS),
  });
  const mark = createHighWaterMark(pool);
  // An idle connection was lost: the pool has dropped it, and opens another when it needs one, perhaps of another server.
  pool.on('error', mark.forget);
  const adapter = new PrismaPg(pool, { disposeExternalPool: true, statementNameGenerator: ({ sql }) => toName(sql) });
  const prisma = new PrismaClient({ adapter });
  async function end(): Promise<void> {
    await prisma.$disconnect();
    if (!pool.ended) await pool.end(); // Prisma ends it only where it was used itself
  }
  return {
    projects: createProjects(prisma),
    apiKeys: createApiKeys(prisma),
    customers: createCustomers(prisma, pool, mark),
    deadLetters: createDeadLetters(prisma, mark),
    ping: () =>
      toStoreError(() =>
        prisma.$queryRaw`
          SELECT projects.rate, 'try_each(text, text[])'::regprocedure::text
          FROM projects, api_keys, access_revision, customers, dead_letters, erasures, high_water_mark LIMIT 0
        `.then(() => undefined),
      ),
    async now() {
      const [row] = await toStoreError(() => prisma.$queryRaw<{ now: Date }[]>`SELECT clock_timestamp() AS now`);
      if (!row) throw new Error('there must be a time');
      return row.now;
    },
    close: () => withTimeout(end(), CLOSE_TIMEOUT_MS).catch(() => {}),
  };
}

/**
 * PostgreSQL plans a statement that has a name once per connection. The upsert's plan takes longer than writing its rows
 * where they are few; other statements are rare, or have more shapes than a connection should remember.
 */
function toName(sql: string): string {
  return isUpsert(sql) ? hash('sha1', sql) : '';
}
