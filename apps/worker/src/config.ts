import { count, type Env, port, STORE_ENV } from '@opm/runtime';

export const WORKER_ENV = {
  ...STORE_ENV,
  INTERNAL_PORT: port({ default: 9401, desc: 'port of /livez, /readyz and /metrics' }),
  WORKER_CONCURRENCY: count({ default: 50, desc: 'jobs under way at the same time, per shard' }),
  STATEMENT_MAX_CHUNKS: count({ default: 50, desc: 'chunks in one upsert at most' }),
  STATEMENTS_IN_FLIGHT: count({ default: 2, desc: 'upserts under way at the same time' }),
};

export type WorkerConfig = Env<typeof WORKER_ENV>;
