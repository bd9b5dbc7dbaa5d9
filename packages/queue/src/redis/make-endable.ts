import { Cluster } from 'ioredis';
import type { RedisClient } from './connect-redis.js';
import { keepEnded, settleConnect } from './mend-cluster.js';

/**
 * Lets a connection, and its duplicates, be ended at any time. While ioredis waits for its next attempt to connect, or has
 * no connection to any node, `disconnect` is heard neither by those who wait for the event `end`, as a BullMQ worker does
 * when it closes, nor by the calls that wait for the connection: https://github.com/redis/ioredis/issues/1830
 */
export function makeEndable<Client extends RedisClient>(redis: Client): Client {
  const { disconnect } = redis;
  redis.disconnect = (reconnect = false) => {
    // One that waits for its first connection it does end, with all that waits.
    if (!reconnect && isCutOff(redis)) redis.status = 'wait';
    disconnect.call(redis, reconnect);
  };
  if (redis instanceof Cluster) {
    keepEnded(redis);
    settleConnect(redis);
  }
  const duplicate = redis.duplicate.bind(redis) as (...override: unknown[]) => Client;
  const endable = { duplicate: (...override: unknown[]) => makeEndable(duplicate(...override)) };
  return Object.assign(redis, endable);
}

const isCutOff = (redis: RedisClient) =>
  redis instanceof Cluster ? redis.nodes().length === 0 : redis.status === 'reconnecting';
