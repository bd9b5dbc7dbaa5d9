import { hash } from 'node:crypto';
import { FLUSH_COMMITS, withTimeout } from '@opm/core';
import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import { type Activity, createActivity } from './activity.js';
import { type ApiKeys, createApiKeys } from './api-keys.js';
import { type Audit, createAudit } from './audit.js';
import { type Customers, createCustomers } from './customers.js';
import { createDeadLetters, type DeadLetters } from './dead-letters.js';
import { PrismaClient } from './generated/client.js';
import { createHighWaterMark, type HighWaterMark } from './high-water-mark.js';
import { createOperators, type Operators } from './operators.js';
import { createProjects, type Projects } from './projects.js';
import { toStoreError } from './store-error.js';
import { isUpsert } from './upsert-customers.js';

export type StoreOptions = {
  databaseUrl: string;
  /** Name of these connections in `pg_stat_activity`. */
  applicationName: string;
  /** Maximum number of connections; 2 by default. */
  poolSize?: number;
  /** Server-side limit of one statement, in ms; 30,000 by default. */
  statementTimeoutMs?: number;
  /**
   * How long to wait for the answer of a statement, in ms; `statementTimeoutMs` by default. A larger value
   * distinguishes a slow statement from an unreachable server.
   */
  answerTimeoutMs?: number;
  /** How long a statement may wait for a lock, in ms; 0, the default, sets no limit besides the statement's. */
  lockTimeoutMs?: number;
  /** How long to wait for a connection, in ms; 30,000 by default. */
  connectTimeoutMs?: number;
  /**
   * Turns sequential scans off, for code that reads only single rows. Plans made while a table is small then use
   * indexes.
   */
  byIndexOnly?: boolean;
};

export type Store = {
  projects: Projects;
  apiKeys: ApiKeys;
  customers: Customers;
  deadLetters: DeadLetters;
  activity: Activity;
  operators: Operators;
  audit: Audit;
  mark: Pick<HighWaterMark, 'noteFinished' | 'read'>;
  /**
   * Checks that PostgreSQL answers, has our tables, and lets us read the tables that every role reads. Other tables are
   * only named as types of NULL, which needs no privilege. @throws StoreError
   */
  ping(): Promise<void>;
  /** Reads PostgreSQL's clock. */
  now(): Promise<Date>;
  close(): Promise<void>;
};

/**
 * Also turns JIT off. Up to PostgreSQL 17, a disabled scan that cannot be avoided, as in `ping`, has such a high cost
 * that PostgreSQL would compile the statement first, which takes longer than a look-up may.
 */
const BY_INDEX_ONLY = ' -c enable_seqscan=off -c jit=off';

/** `close` does not wait longer for a statement in flight. The exit of the process cuts it off. */
const CLOSE_TIMEOUT_MS = 3_000;

/** Opens the store, which connects on first use. Its methods throw {@link StoreError}, not errors of Prisma or pg. */
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
    idleTimeoutMillis: 0, // a new connection costs several statements, and must plan the upsert anew
    keepAlive: true, // otherwise a firewall may drop idle connections
    keepAliveInitialDelayMillis: 10_000,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    // `statement_timeout` needs a server that answers. This client-side timeout detects a dead connection.
    query_timeout: answerTimeoutMs,
    application_name: applicationName,
    // With another time zone, Prisma's adapter shifts timestamps.
    options: `-c TimeZone=UTC -c lock_timeout=${lockTimeoutMs}${byIndexOnly ? BY_INDEX_ONLY : ''}`,
    onConnect: (client) => client.query(FLUSH_COMMITS),
  });
  const mark = createHighWaterMark(pool);
  // An idle connection was lost. The pool has dropped it and opens a new one when needed, maybe to another server.
  pool.on('error', mark.forget);
  const adapter = new PrismaPg(pool, { disposeExternalPool: true, statementNameGenerator: ({ sql }) => toName(sql) });
  const prisma = new PrismaClient({ adapter });
  async function end(): Promise<void> {
    await prisma.$disconnect();
    if (!pool.ended) await pool.end(); // Prisma ends the pool only if Prisma was used
  }
  return {
    projects: createProjects(prisma),
    apiKeys: createApiKeys(prisma),
    customers: createCustomers(prisma, pool, mark),
    deadLetters: createDeadLetters(prisma, mark),
    activity: createActivity(prisma),
    operators: createOperators(prisma),
    audit: createAudit(prisma),
    mark,
    ping: () =>
      toStoreError(() =>
        prisma.$queryRaw`
          SELECT (NULL::projects).paused_at, (NULL::api_keys).scopes, (NULL::access_revision).revision::text,
            (NULL::erasures).version, dead_letters.request_ids, 'try_each(text, text[])'::regprocedure::text
          FROM projects, customers, dead_letters, high_water_mark LIMIT 0
        `.then(() => undefined),
      ),
    async now() {
      const [row] = await toStoreError(() => prisma.$queryRaw<{ now: Date }[]>`SELECT clock_timestamp() AS now`);
      if (!row) throw new Error('SELECT clock_timestamp() returned no row');
      return row.now;
    },
    close: () => withTimeout(end(), CLOSE_TIMEOUT_MS).catch(() => {}),
  };
}

/**
 * PostgreSQL plans a named statement once per connection. Only the upsert gets a name: planning it takes longer than
 * writing a few rows. Other statements are rare, or have too many shapes for a connection to remember.
 */
function toName(sql: string): string {
  return isUpsert(sql) ? hash('sha1', sql) : '';
}
