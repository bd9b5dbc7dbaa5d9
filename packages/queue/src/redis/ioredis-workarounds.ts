import { once } from 'node:events';
import { Cluster, type Redis } from 'ioredis';

/**
 * Keeps an ended cluster client ended. If the connection to a node ends late, ioredis sets the status from `end` back
 * to `close`. A command sent in that status, or sent again, would wait forever.
 */
function fixClusterEnd(cluster: Cluster): void {
  let hasEnded = false;
  cluster
    .on('end', () => {
      if (hasEnded) return;
      hasEnded = true;
      // A slot refresh in flight would schedule further ones, and their timers keep the process alive.
      cluster.refreshSlotsCache(() => cluster.status === 'end' && cluster.disconnect());
    })
    .on('connecting', () => {
      hasEnded = false;
    })
    .on('close', () => {
      if (hasEnded && cluster.status === 'close') cluster.disconnect();
    });
}

/**
 * Settles `connect()` when the cluster is ready or ended. If some slots are not served, ioredis reconnects by itself
 * but never settles the promise of the first attempt, and a BullMQ worker that awaits it takes no more jobs.
 */
function fixClusterConnect(cluster: Cluster): void {
  const connect = cluster.connect.bind(cluster);
  let outcome: Promise<unknown> | undefined;

  async function waitForOutcome(): Promise<void> {
    const settled = new AbortController();
    const { signal } = settled;
    const fail = () => Promise.reject(new Error('Connection is closed.')); // BullMQ compares this text
    try {
      await Promise.race([once(cluster, 'ready', { signal }), once(cluster, 'end', { signal }).then(fail)]);
    } finally {
      settled.abort();
      outcome = undefined;
    }
  }

  cluster.connect = async () => {
    outcome ??= waitForOutcome(); // shared by all attempts
    await Promise.race([connect(), outcome]);
  };
}

/**
 * Makes `disconnect` work at any time, for the connection and its duplicates. While ioredis waits for its next
 * attempt to connect, or has no connection to any node, `disconnect` neither emits `end`, for which a closing BullMQ
 * worker waits, nor rejects the commands that wait for the connection: https://github.com/redis/ioredis/issues/1830
 */
export function applyIoredisWorkarounds<Client extends RedisClient>(redis: Client): Client {
  const { disconnect } = redis;
  redis.disconnect = (reconnect = false) => {
    // In status `wait` (before the first connection) ioredis does end the connection and reject what waits for it.
    if (!reconnect && isDisconnected(redis)) redis.status = 'wait';
    disconnect.call(redis, reconnect);
  };
  if (redis instanceof Cluster) {
    fixClusterEnd(redis);
    fixClusterConnect(redis);
  }
  const duplicate = redis.duplicate.bind(redis) as (...override: unknown[]) => Client;
  const endable = { duplicate: (...override: unknown[]) => applyIoredisWorkarounds(duplicate(...override)) };
  return Object.assign(redis, endable);
}

const isDisconnected = (redis: RedisClient) =>
  redis instanceof Cluster ? redis.nodes().length === 0 : redis.status === 'reconnecting';

export type RedisClient = Redis | Cluster;
