import { once } from 'node:events';
import { Cluster, type ClusterOptions, Redis, type RedisOptions } from 'ioredis';
import type { Role } from '../queue-backend.js';
import { confirmWrites } from './confirm-writes.js';
import { makeEndable } from './make-endable.js';

export type RedisClient = Redis | Cluster;

export type RedisConnection = {
  /** Of one Redis, or of some nodes of a cluster, separated by commas. */
  redisUrl: string;
  role: Role;
  /** That must have a producer's writes before it is answered; 0 where the one that it writes to is enough. */
  minReplicas: number;
  /** How long a producer's call may take. */
  answerTimeoutMs: number;
  onError: (error: Error) => void;
};

/** A connection that was lost without a word looks open for ever: `socketTimeout` ends one that owes an answer for that long. */
const OPTIONS: Record<Role, (answerTimeoutMs: number) => RedisOptions> = {
  producer: (answerTimeoutMs) => ({
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: answerTimeoutMs,
    commandTimeout: answerTimeoutMs,
    socketTimeout: 1.5 * answerTimeoutMs,
  }),
  // BullMQ waits for jobs with calls that take 10 s at most.
  worker: () => ({ maxRetriesPerRequest: null, socketTimeout: 30_000 }),
  dashboard: () => ({ maxRetriesPerRequest: 1, commandTimeout: 10_000, socketTimeout: 10_000 }),
};

const CLUSTER_OPTIONS: Record<Role, ClusterOptions> = {
  // What was sent when a connection was lost may have been done: it is for the partner to send it again.
  producer: { enableOfflineQueue: false, retryDelayOnFailover: 0 },
  worker: { maxRedirections: Number.POSITIVE_INFINITY, retryDelayOnMoved: 50 },
  dashboard: {},
};

const READY_TIMEOUT_MS = 2_000;
/** Where masters fail, and nobody is told, the map of the cluster is this old at most. */
const REFRESH_INTERVAL_MS = 5_000;

/** Connects in the background, and again whenever the connection is lost. */
export function connectRedis(connection: RedisConnection): RedisClient {
  const { redisUrl, role, minReplicas, answerTimeoutMs, onError } = connection;
  const urls = redisUrl.split(',');
  const options = OPTIONS[role](answerTimeoutMs);
  const confirm = (node: Redis) =>
    confirmWrites(node, role === 'producer' ? minReplicas : 0, Math.ceil(answerTimeoutMs / 2));
  const redis =
    urls.length > 1
      ? connectCluster(urls, role, options).on('+node', confirm).on('node error', onError)
      : confirm(new Redis(redisUrl, { ...options, retryStrategy: toRetryDelay }));
  return makeEndable(redis).on('error', onError);
}

function connectCluster(urls: string[], role: Role, options: RedisOptions): Cluster {
  return new Cluster(urls, {
    redisOptions: { ...options, ...toCredentials(urls[0] as string) },
    ...CLUSTER_OPTIONS[role],
    clusterRetryStrategy: toRetryDelay,
    slotsRefreshInterval: REFRESH_INTERVAL_MS,
    // Certificates are for names, not for the addresses that they stand for.
    dnsLookup: (address, callback) => callback(null, address),
  });
}

const toRetryDelay = (attempt: number) => Math.min(50 * 2 ** attempt, 2_000) * (0.5 + Math.random() / 2);

/** Nodes that are not among the URLs want them, too. */
function toCredentials(url: string): RedisOptions {
  const { protocol, username, password } = new URL(url);
  return {
    ...(username && { username: decodeURIComponent(username) }),
    ...(password && { password: decodeURIComponent(password) }),
    ...(protocol === 'rediss:' && { tls: {} }),
  };
}

/** All that have data of their own: one, or a cluster's masters. */
export const mastersOf = (redis: RedisClient): Redis[] => (redis instanceof Cluster ? redis.nodes('master') : [redis]);

/** @throws the reason if the connection fails, or is not there in time */
export async function waitUntilReady(redis: RedisClient): Promise<void> {
  if (redis.status === 'ready') return;
  const signal = AbortSignal.timeout(READY_TIMEOUT_MS);
  await once(redis, 'ready', { signal }).catch((cause) => {
    throw signal.aborted ? new Error(`Redis is not ready after ${READY_TIMEOUT_MS} ms`, { cause }) : cause;
  });
}
