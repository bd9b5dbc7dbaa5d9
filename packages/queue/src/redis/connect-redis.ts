import { once } from 'node:events';
import { Cluster, type ClusterOptions, Redis, type RedisOptions } from 'ioredis';
import type { Role } from '../queue-store.js';
import { confirmWrites } from './confirm-writes.js';
import { applyIoredisWorkarounds, type RedisClient } from './ioredis-workarounds.js';

export type RedisConnection = {
  /** URL of one Redis, or URLs of several cluster nodes, separated by commas. */
  redisUrl: string;
  role: Role;
  /** Replicas that must confirm a producer's write; 0 if the master alone suffices. */
  minReplicas: number;
  /** Timeout of a producer's calls, in ms. */
  answerTimeoutMs: number;
  onError: (error: Error) => void;
};

/** A connection that breaks silently looks open. `socketTimeout` closes it if an answer takes that long. */
const OPTIONS: Record<Role, (answerTimeoutMs: number) => RedisOptions> = {
  producer: (answerTimeoutMs) => ({
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: answerTimeoutMs,
    commandTimeout: answerTimeoutMs,
    socketTimeout: 1.5 * answerTimeoutMs,
  }),
  // BullMQ waits for jobs with calls that block for at most 10 s.
  worker: () => ({ maxRetriesPerRequest: null, socketTimeout: 30_000 }),
  dashboard: () => ({ maxRetriesPerRequest: 1, commandTimeout: 10_000, socketTimeout: 10_000 }),
};

const CLUSTER_OPTIONS: Record<Role, ClusterOptions> = {
  // A command sent before the connection broke may have run. The partner decides whether to repeat the request.
  producer: { enableOfflineQueue: false, retryDelayOnFailover: 0 },
  worker: { maxRedirections: Number.POSITIVE_INFINITY, retryDelayOnMoved: 50 },
  dashboard: {},
};

const READY_TIMEOUT_MS = 2_000;
/** The maximum age of the cluster's slot map. A failover does not notify clients. */
const REFRESH_INTERVAL_MS = 5_000;

/** Connects in the background, and reconnects if the connection is lost. */
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
  return applyIoredisWorkarounds(redis).on('error', onError);
}

function connectCluster(urls: string[], role: Role, options: RedisOptions): Cluster {
  return new Cluster(urls, {
    redisOptions: { ...options, ...toCredentials(urls[0] as string) },
    ...CLUSTER_OPTIONS[role],
    clusterRetryStrategy: toRetryDelay,
    slotsRefreshInterval: REFRESH_INTERVAL_MS,
    // Keep host names unresolved: TLS certificates contain names, not addresses.
    dnsLookup: (address, callback) => callback(null, address),
  });
}

const toRetryDelay = (attempt: number) => Math.min(50 * 2 ** attempt, 2_000) * (0.5 + Math.random() / 2);

/** Credentials and TLS from the first URL, also for cluster nodes that are not among the URLs. */
function toCredentials(url: string): RedisOptions {
  const { protocol, username, password } = new URL(url);
  return {
    ...(username && { username: decodeURIComponent(username) }),
    ...(password && { password: decodeURIComponent(password) }),
    ...(protocol === 'rediss:' && { tls: {} }),
  };
}

/** The nodes that own data: the single Redis, or the cluster's masters. */
export const mastersOf = (redis: RedisClient): Redis[] => (redis instanceof Cluster ? redis.nodes('master') : [redis]);

/** @throws Error if the connection fails or is not ready within 2 s */
export async function waitUntilReady(redis: RedisClient): Promise<void> {
  if (redis.status === 'ready') return;
  const signal = AbortSignal.timeout(READY_TIMEOUT_MS);
  await once(redis, 'ready', { signal }).catch((cause) => {
    throw signal.aborted ? new Error(`Redis is not ready after ${READY_TIMEOUT_MS} ms`, { cause }) : cause;
  });
}
