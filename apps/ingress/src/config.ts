import { MAX_CHUNK_ENTRIES } from '@opm/queue';
import { count, type Env, PROCESS_ENV, port, str, wholeNumber } from '@opm/runtime';

export const INGRESS_ENV = {
  ...PROCESS_ENV,
  HOST: str({ default: undefined, desc: 'address to listen on; default: all addresses' }),
  PORT: port({ default: 3000, desc: 'port for partners, 0 to 65535' }),
  INTERNAL_PORT: port({ default: 9400, desc: 'port of /livez, /readyz and /metrics' }),
  CHUNK_MAX_ENTRIES: wholeNumber({
    min: 1,
    max: MAX_CHUNK_ENTRIES,
    default: 200,
    desc: `maximum entries in one job, 1 to ${MAX_CHUNK_ENTRIES}`,
  }),
  CHUNKS_IN_FLIGHT: count({
    default: 4,
    desc: 'maximum admissions of one shard at once, and as many again that wait for a look-up',
  }),
  PENDING_MAX_ENTRIES: count({
    default: 5_000,
    desc: 'maximum entries that wait for their acknowledgement; others get 503',
  }),
  BACKLOG_MAX_ENTRIES: count({ default: 1_000_000, desc: 'maximum entries in the queues; above it, partners get 503' }),
  EVENT_LOOP_MAX_DELAY_MS: count({
    default: 200,
    desc: 'maximum median delay of the event loop in ms; above it, partners get 503',
  }),
  MAX_CONNECTIONS: count({ default: 10_000, desc: 'maximum simultaneous connections of partners' }),
  SHUTDOWN_DELAY_MS: wholeNumber({
    min: 0,
    max: 600_000,
    default: 100,
    desc: 'how long requests are still accepted after SIGTERM while the ingress is not ready, in ms, 0 to 600000',
  }),
  TRUSTED_PROXIES: wholeNumber({
    min: 0,
    max: 10,
    default: 0,
    desc: 'number of proxies in front, 0 to 10, that set X-Forwarded-For',
  }),
};

export type IngressConfig = Env<typeof INGRESS_ENV>;

export type TimeBudget = ReturnType<typeof toTimeBudget>;

/** The timeouts of the ingress that depend on `ANSWER_TIMEOUT_MS`, in whole ms. Each is a fixed share of it. */
export function toTimeBudget(answerTimeoutMs: number) {
  const share = (of: number) => Math.ceil(answerTimeoutMs * of);
  return {
    /** How long a call may wait for its turn. `turnMs` and `workMs` together are the whole budget. */
    turnMs: share(1 / 4),
    /** How long the calls to the queue store and PostgreSQL may take. */
    workMs: share(3 / 4),
    /** The part of `workMs` that is reserved for the answer if PostgreSQL does not answer. */
    replyMs: share(1 / 20),
    /**
     * How long to wait for PostgreSQL to say whether customers exist. If it is late, the answer is 202 instead of 201.
     */
    lookUpMs: share(1 / 5),
    /**
     * How long a statement or a new connection may take. An abandoned statement frees its connection after this time.
     */
    statementMs: share(1 / 2),
    /** How long a token reservation may take. If the store is slower than this, it could not take the entry either. */
    tokensMs: share(1 / 4),
    /**
     * How long a request waits for another request's token reservation. Less than `tokensMs`, so that a request that
     * waited for a hanging reservation does not start another one.
     */
    tokensTurnMs: share(1 / 5),
    /**
     * How long the headers, and the whole request, may take to arrive. Never less than what is documented for partners.
     */
    headersMs: Math.max(5_000, share(5)),
    requestMs: Math.max(10_000, share(10)),
  };
}
