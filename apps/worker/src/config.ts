import { countBetween, type Env, port, STORE_ENV } from '@opm/runtime';

const HOUR_MS = 60 * 60 * 1_000;

export const WORKER_ENV = {
  ...STORE_ENV,
  INTERNAL_PORT: port({ default: 9401, desc: 'port of /livez, /readyz and /metrics' }),
  WORKER_CONCURRENCY: countBetween(
    1,
    10_000,
  )({
    default: 50,
    desc: 'jobs processed at the same time per shard, 1 to 10000',
  }),
  STATEMENT_MAX_ROWS: countBetween(
    1,
    50_000,
  )({
    default: 1_000,
    desc: 'maximum entries per upsert statement, 1 to 50000; a larger chunk gets its own statement',
  }),
  STATEMENTS_IN_FLIGHT: countBetween(1, 100)({ default: 2, desc: 'upsert statements in flight, 1 to 100' }),
  JOB_LOCK_MS: countBetween(
    1_000,
    HOUR_MS,
  )({
    default: 20_000,
    desc: 'job lock in ms: how long a silent worker keeps a job, 1000 to 3600000',
  }),
  JOB_MAX_ATTEMPTS: countBetween(
    1,
    1_000,
  )({
    default: 8,
    desc: 'attempts before an entry with an unclassified error becomes a dead letter, 1 to 1000',
  }),
  // Longer than an idempotency key counts, or a repeat could restore an erased customer.
  TOMBSTONE_RETENTION_DAYS: countBetween(
    2,
    36_500,
  )({
    default: 30,
    desc: 'days to keep the tombstones of erased customers, 2 to 36500',
  }),
};

export type WorkerConfig = Env<typeof WORKER_ENV>;
