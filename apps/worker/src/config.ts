import { count, type Env, port, STORE_ENV } from '@opm/runtime';

export const WORKER_ENV = {
  ...STORE_ENV,
  INTERNAL_PORT: port({ default: 9401, desc: 'port of /livez, /readyz and /metrics' }),
  WORKER_CONCURRENCY: count({ default: 50, desc: 'jobs under way at the same time, per shard' }),
  STATEMENT_MAX_ROWS: count({ default: 1_000, desc: 'entries in one upsert at most; a larger chunk goes alone' }),
  STATEMENTS_IN_FLIGHT: count({ default: 2, desc: 'upserts under way at the same time' }),
  JOB_LOCK_MS: count({ default: 20_000, desc: 'how long a job stays with a worker that gives no sign of life' }),
  JOB_MAX_ATTEMPTS: count({
    default: 8,
    desc: 'attempts before entries that fail for unknown reasons are dead letters',
  }),
  TOMBSTONE_RETENTION_DAYS: count({ default: 30, desc: 'how long the traces of erased customers are kept' }),
};

export type WorkerConfig = Env<typeof WORKER_ENV>;
