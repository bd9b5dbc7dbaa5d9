import { FLUSH_COMMITS } from '@opm/core';
import { createPostgresBackend, type Queue, type Worker, withBackend } from 'bullmq';
import pg from 'pg';
import { withBackOff } from '../back-off.js';
import type { Role, Store } from '../queue-backend.js';
import { isPooled } from './is-pooled.js';
import { createPostgresAdmission } from './postgres-admission.js';
import { readClockSkews, shortenDeadlines } from './postgres-clock.js';
import { createPostgresIdempotency } from './postgres-idempotency.js';
import { createPostgresTokenBuckets } from './postgres-token-buckets.js';

const bullmq = {
  Queue: withBackend(createPostgresBackend).Queue,
  Worker: withBackend(withBackOff(createPostgresBackend)).Worker,
};

/** A partner who comes after a while would wait for a new connection, and its first plans, ten times as long as for the answer. */
const KEPT = { max: 4, idleTimeoutMillis: 0, keepAliveInitialDelayMillis: 10_000 };

const CONNECTION = {
  producer: (ms) => ({ ...KEPT, connectionTimeoutMillis: ms, statement_timeout: ms, query_timeout: ms }),
  worker: () => ({ ...KEPT, connectionTimeoutMillis: 10_000, query_timeout: 30_000 }),
  dashboard: () => ({ max: 2, connectionTimeoutMillis: 5_000 }),
} satisfies Record<Role, (answerTimeoutMs: number) => pg.PoolConfig>;

const NOT_DIRECT =
  'the queue in PostgreSQL needs sessions of its own, which a pooler such as PgBouncer does not give: ' +
  "set REDIS_URL, or have DATABASE_URL name PostgreSQL's own address";

export function createPostgresQueueBackend(options: {
  databaseUrl: string;
  role: Role;
  shards: number;
  /** How long a producer's call may take. */
  answerTimeoutMs: number;
  onError: (error: Error) => void;
}): Store {
  const { databaseUrl, shards, role, answerTimeoutMs, onError } = options;
  const connection = { ...CONNECTION[role](answerTimeoutMs), connectionString: databaseUrl, keepAlive: true };
  // What admission writes is flushed by the enqueue that follows it: see the migration that defines it.
  const pool = new pg.Pool({ ...connection, options: '-c synchronous_commit=off' });
  pool.on('error', onError);

  /** BullMQ's sessions: a job is acknowledged when it is committed. */
  const flushing = { ...connection, onConnect: (client: pg.ClientBase) => client.query(FLUSH_COMMITS) };

  let isDirect = false;
  const ping = async () => {
    isDirect ||= !(await isPooled(connection));
    // It would lose the notifications that wake the workers, and BullMQ's search path with them.
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
    async readClock() {
      const { rows } = await pool.query<{ now: Date }>('SELECT clock_timestamp() AS now');
      return (rows[0] as { now: Date }).now;
    },
    memoryUse: async () => 0,
    close: () => pool.end(),
  };
}
