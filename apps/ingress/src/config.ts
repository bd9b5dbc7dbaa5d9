import { MAX_CHUNK_ENTRIES } from '@opm/queue';
import { count, countBetween, type Env, port, STORE_ENV, str } from '@opm/runtime';

export const INGRESS_ENV = {
  ...STORE_ENV,
  HOST: str({ default: undefined, desc: 'address to listen on; all of them where it is not given' }),
  PORT: port({ default: 3000, desc: 'port for partners, 0 to 65535' }),
  INTERNAL_PORT: port({ default: 9400, desc: 'port of /livez, /readyz and /metrics' }),
  CHUNK_MAX_ENTRIES: countBetween(
    1,
    MAX_CHUNK_ENTRIES,
  )({
    default: 200,
    desc: `entries in one job at most, 1 to ${MAX_CHUNK_ENTRIES}`,
  }),
  CHUNKS_IN_FLIGHT: count({
    default: 4,
    desc: 'chunks of one shard and priority on their way into the queue at the same time',
  }),
  PENDING_MAX_ENTRIES: count({
    default: 5_000,
    desc: 'entries that may wait for their acknowledgement at the same time',
  }),
  BACKLOG_MAX_ENTRIES: count({ default: 1_000_000, desc: 'entries in the queues above which no more are accepted' }),
  EVENT_LOOP_MAX_DELAY_MS: count({
    default: 200,
    desc: 'milliseconds by which the event loop may usually be late; above that no entries are accepted',
  }),
  MAX_CONNECTIONS: count({ default: 10_000, desc: 'connections of partners at the same time' }),
  SHUTDOWN_DELAY_MS: countBetween(
    0,
    600_000,
  )({
    default: 100,
    desc: 'milliseconds, 0 to 600000, for which requests are still taken after SIGTERM, while unready',
  }),
  TRUSTED_PROXIES: countBetween(
    0,
    10,
  )({
    default: 0,
    desc: 'proxies in front, 0 to 10, that say in X-Forwarded-For where a request comes from',
  }),
  DATABASE_POOL_SIZE: count({ default: 4, desc: 'connections to PostgreSQL for look-ups' }),
};

export type IngressConfig = Env<typeof INGRESS_ENV>;
