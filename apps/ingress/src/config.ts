import { count, type Env, port, STORE_ENV, str } from '@opm/runtime';

export const INGRESS_ENV = {
  ...STORE_ENV,
  HOST: str({ default: undefined, desc: 'address to listen on; all of them where it is not given' }),
  PORT: port({ default: 3000, desc: 'port for partners, 0 to 65535' }),
  INTERNAL_PORT: port({ default: 9400, desc: 'port of /livez, /readyz and /metrics' }),
  CHUNK_MAX_ENTRIES: count({ default: 200, desc: 'entries in one job at most' }),
  CHUNKS_IN_FLIGHT: count({ default: 4, desc: 'chunks on their way into the queue at the same time' }),
  DATABASE_POOL_SIZE: count({ default: 4, desc: 'connections to PostgreSQL for look-ups' }),
};

export type IngressConfig = Env<typeof INGRESS_ENV>;
