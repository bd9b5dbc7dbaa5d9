import { FLUSH_COMMITS } from '@opm/core';
import { createPostgresBackend, type Queue, runMigrations, type Worker, withBackend } from 'bullmq';
import pg from 'pg';
import { PRIORITIES } from '../backlog.js';
import { measureSkew } from '../clock.js';
import type { DeadlineLimits, QueueStore, Role } from '../queue-store.js';
import { withBackOff } from '../retry-policy.js';
import {
  type BucketCall,
  BucketLocked,
  createTokenBuckets,
  PARTS_PER_TOKEN,
  type Reserved,
  type TokenBuckets,
} from '../token-buckets.js';
import { createPostgresAdmission } from './postgres-admission.js';
import { createPostgresIdempotency } from './postgres-idempotency.js';

const bullmq = {
  Queue: withBackend(createPostgresBackend).Queue,
  Worker: withBackend(withBackOff(createPostgresBackend)).Worker,
};

/**
 * Connections stay open while idle. A new connection, with its first query plans, makes a request take ten times as
 * long.
 */
const KEEP_OPEN = { max: 4, idleTimeoutMillis: 0, keepAliveInitialDelayMillis: 10_000 };

const CONNECTION = {
  producer: (ms) => ({ ...KEEP_OPEN, connectionTimeoutMillis: ms, statement_timeout: ms, query_timeout: ms }),
  worker: () => ({ ...KEEP_OPEN, connectionTimeoutMillis: 10_000, query_timeout: 30_000 }),
  dashboard: () => ({ max: 2, connectionTimeoutMillis: 5_000 }),
} satisfies Record<Role, (answerTimeoutMs: number) => pg.PoolConfig>;

const NOT_DIRECT =
  'the queue in PostgreSQL needs direct connections, without a pooler such as PgBouncer: ' +
  'set REDIS_URL, or point DATABASE_URL at PostgreSQL itself';

export function createPostgresStore(options: {
  databaseUrl: string;
  role: Role;
  shards: number;
  /** Timeout of a producer's calls, in ms. */
  answerTimeoutMs: number;
  onError: (error: Error) => void;
}): QueueStore {
  const { databaseUrl, shards, role, answerTimeoutMs, onError } = options;
  const connection = { ...CONNECTION[role](answerTimeoutMs), connectionString: databaseUrl, keepAlive: true };
  // The enqueue that follows flushes what admission wrote: see the migration that defines admission.
  const pool = new pg.Pool({ ...connection, options: '-c synchronous_commit=off' });
  pool.on('error', onError);

  /** BullMQ's sessions flush each commit: an entry is acknowledged when its job is committed. */
  const flushing = { ...connection, onConnect: (client: pg.ClientBase) => client.query(FLUSH_COMMITS) };

  let isDirect = false;
  const ping = async () => {
    isDirect ||= !(await isPooled(connection));
    // A pooler loses BullMQ's search path and the notifications that wake the workers.
    if (!isDirect) throw new Error(NOT_DIRECT);
    await pool.query('SELECT FROM admission.shards LIMIT 0');
  };
  return {
    admission: createPostgresAdmission(pool, shards),
    idempotency: createPostgresIdempotency(pool),
    buckets: createPostgresTokenBuckets(pool, { maxWaitMs: answerTimeoutMs / 4 }),
    createQueue({ name }, queueOptions) {
      const queue = new bullmq.Queue(name, { ...queueOptions, connection: flushing });
      return queue.on('error', onError) as unknown as Queue;
    },
    createWorker({ name }, processor, workerOptions) {
      const worker = new bullmq.Worker(name, processor, { ...workerOptions, connection: flushing });
      return worker.on('error', onError) as unknown as Worker;
    },
    ping,
    check: ping,
    readClockSkews: () => readClockSkews(pool),
    shortenDeadlines: ({ name }, limits) => shortenDeadlines(pool, name, limits),
    async findOldest({ name }) {
      const { rows } = await pool.query<{ oldest: string | null }>({
        name: 'find-oldest',
        text: FIND_OLDEST,
        values: [name, [0, ...PRIORITIES]],
      });
      return rows[0]?.oldest ? Number(rows[0].oldest) : undefined;
    },
    async readClock() {
      const { rows } = await pool.query<{ now: Date }>('SELECT clock_timestamp() AS now');
      return (rows[0] as { now: Date }).now;
    },
    memoryUse: async () => 0,
    close: () => pool.end(),
  };
}

/** BullMQ (6.7) cannot do this: on PostgreSQL its lists begin with the newest job. Jobs of a priority wait in order. */
const FIND_OLDEST = `
  SELECT least(
    (SELECT min(head.added_at_ms) FROM unnest($2::int[]) AS priorities (priority) CROSS JOIN LATERAL (
      SELECT j.added_at_ms FROM bullmq.job j
      WHERE j.queue = $1 AND j.state = 'waiting' AND j.priority = priorities.priority ORDER BY j.seq LIMIT 1
    ) AS head),
    (SELECT min(added_at_ms) FROM bullmq.job WHERE queue = $1 AND state = 'active'),
    (SELECT added_at_ms FROM bullmq.job WHERE queue = $1 AND state = 'delayed' ORDER BY process_at_ms LIMIT 1)
  ) AS oldest`;

type ReservedRow = { place: number; granted: string; available: string; clock: string };

/** Calls the function that the migration `lease_many` defines. */
function createPostgresTokenBuckets(pool: pg.Pool, { maxWaitMs }: { maxWaitMs: number }): TokenBuckets {
  return createTokenBuckets({
    groupOf: () => 0,
    async reserveMany(_group, calls) {
      const column = (name: keyof BucketCall) => calls.map((call) => call[name]);
      const { rows } = await pool.query<ReservedRow>({
        name: 'reserve-many',
        text: 'SELECT * FROM admission.lease_many($1, $2, $3, $4, $5)',
        values: (['projectId', 'rate', 'burst', 'wanted', 'returned'] as const).map(column),
      });
      const reserved = calls.map(
        (): Reserved | BucketLocked => new BucketLocked('another session has locked the bucket'),
      );
      for (const { place, granted, available, clock } of rows) {
        reserved[place - 1] = {
          granted: Number(granted),
          available: Number(available) / PARTS_PER_TOKEN,
          clock: Number(clock),
        };
      }
      return reserved;
    },
    maxWaitMs,
  });
}

const NOW = '(extract(epoch FROM clock_timestamp()) * 1000)';

async function readClockSkews(pool: pg.Pool): Promise<number[]> {
  const skew = await measureSkew(async () => {
    const { rows } = await pool.query<{ now: string }>({ name: 'read-clock', text: `SELECT ${NOW} AS now` });
    return Number(rows[0]?.now);
  });
  return [skew];
}

/** BullMQ stores its deadlines, and the time of its last stalled check, as absolute times. */
async function shortenDeadlines(pool: pg.Pool, queue: string, limits: DeadlineLimits): Promise<void> {
  const { lockMs, delayMs } = limits;
  await pool.query(
    `UPDATE bullmq.job SET locked_until_ms = ${NOW} + $2::int
     WHERE queue = $1 AND state = 'active' AND locked_until_ms > ${NOW} + $2::int + 1000`,
    [queue, lockMs],
  );
  await pool.query(
    `UPDATE bullmq.job SET process_at_ms = ${NOW} + $2::int
     WHERE queue = $1 AND state = 'delayed' AND process_at_ms > ${NOW} + $2::int + 1000`,
    [queue, delayMs],
  );
  await pool.query(
    `UPDATE bullmq.meta SET value = floor(${NOW})::bigint::text
     WHERE queue = $1 AND field = 'stalled-check' AND value::bigint > ${NOW} + 1000`,
    [queue],
  );
}

/**
 * Whether a pooler such as PgBouncer is between this process and PostgreSQL. If so, the session that answers is not
 * the one named when the connection was opened.
 * @throws the error of the connection
 */
export async function isPooled(
  connection: Pick<pg.ClientConfig, 'connectionString' | 'connectionTimeoutMillis'>,
): Promise<boolean> {
  const client: pg.Client & { processID?: number } = new pg.Client(connection);
  await client.connect();
  try {
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    return rows[0]?.pid !== client.processID;
  } finally {
    await client.end();
  }
}

/** Migrates BullMQ's tables, in the schema `bullmq`, to the version that this package uses. Idempotent. */
export async function migrateQueue(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    await runMigrations(client);
  } finally {
    await client.end();
  }
}
