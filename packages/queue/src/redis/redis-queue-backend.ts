import { createRedisBackend, Queue, withBackend } from 'bullmq';
import calculateSlot from 'cluster-key-slot';
import type { QueueAddress } from '../admission.js';
import { toMaxBytes } from '../idempotency.js';
import type { QueueStore } from '../queue-store.js';
import { withBackOff } from '../retry-policy.js';
import { connectRedis, mastersOf, type RedisConnection, waitUntilReady } from './connect-redis.js';
import { createHighWaterMark } from './high-water-mark.js';
import { createRedisAdmission } from './redis-admission.js';
import { createShortenDeadlines, readClockSkews } from './redis-clock.js';
import { checkRedis, readMemory } from './redis-health.js';
import { createRedisIdempotency } from './redis-idempotency.js';
import { createRedisTokenBuckets } from './redis-token-buckets.js';

type RedisBackendOptions = RedisConnection & { databaseUrl: string; prefix: string; shards: number };

export function createRedisQueueBackend(options: RedisBackendOptions): QueueStore {
  const { databaseUrl, prefix, shards, ...connection } = options;
  const redis = connectRedis(connection);
  const mark = createHighWaterMark({ databaseUrl, ...connection });
  const shortenDeadlines = createShortenDeadlines(redis);
  const { onError } = connection;
  // On Redis Cluster all keys with the same hash tag live on one node.
  const keyspaces = Array.from({ length: shards }, (_, shard) => toHashTag(prefix, shard, shards));
  const keyspaceOf = (shard: number) => keyspaces[shard] as string;
  let memoryLimit = 0; // as `memoryUse` read it last; 0, no limit, until then
  function keyspaceOfQueue({ name, shard }: QueueAddress): string {
    if (!shard) return `{${prefix}-${name}}`;
    return shard.of === shards ? keyspaceOf(shard.index) : toHashTag(prefix, shard.index, shard.of);
  }

  return {
    admission: createRedisAdmission(redis, { keyspaceOf, common: `{${prefix}-0}`, mark }),
    idempotency: createRedisIdempotency(redis, {
      keyspaces,
      maxBytes: () => Math.ceil(toMaxBytes(memoryLimit) / shards),
    }),
    buckets: createRedisTokenBuckets(redis, { shards, keyspaceOf, maxWaitMs: connection.answerTimeoutMs / 4 }),
    createQueue(address, queueOptions) {
      const queue = new Queue(address.name, { ...queueOptions, connection: redis, prefix: keyspaceOfQueue(address) });
      return queue.on('error', onError);
    },
    createWorker(address, processor, workerOptions) {
      const options = { ...workerOptions, connection: redis, prefix: keyspaceOfQueue(address) };
      return new Worker(address.name, processor, options).on('error', onError);
    },
    async ping() {
      await waitUntilReady(redis);
      await Promise.all(mastersOf(redis).map((node) => node.ping()));
    },
    check: () => checkRedis(redis),
    readClockSkews: () => readClockSkews(redis),
    shortenDeadlines: (address, limits) => shortenDeadlines(`${keyspaceOfQueue(address)}:${address.name}`, limits),
    async readClock() {
      const times = await Promise.all(mastersOf(redis).map((node) => node.time()));
      return new Date(Math.min(...times.map(([seconds, micros]) => Number(seconds) * 1_000 + Number(micros) / 1_000)));
    },
    async memoryUse() {
      const { use, limit } = await readMemory(redis);
      memoryLimit = limit;
      return use;
    },
    async close() {
      redis.disconnect();
      await mark.close();
    },
  };
}

/**
 * BullMQ's backend without a costly conversion. BullMQ (6.7) tests whether the reply to a finished job is less than
 * 0. If the reply is the next job, an array, JavaScript converts all its data to one string for that comparison. This
 * was a sixth of a worker's allocations.
 */
const createWorkerBackend: typeof createRedisBackend = (...args) => {
  const backend = createRedisBackend(...args);
  const execCommand = backend.execCommand.bind(backend);
  backend.execCommand = (client, name, commandArgs) => {
    const reply = execCommand(client, name, commandArgs);
    return name === 'moveToFinished' ? reply.then(toComparable) : reply;
  };
  return backend;
};

const { Worker } = withBackend(withBackOff(createWorkerBackend));

function toComparable(reply: unknown): unknown {
  return Array.isArray(reply) ? Object.assign(reply, { [Symbol.toPrimitive]: () => Number.NaN }) : reply;
}

const SLOTS = 16_384;

/**
 * The hash tag of a shard, such as `{opm-0}` or `{opm-0.42}`. It tries `{opm-0}`, `{opm-0.1}`, `{opm-0.2}` … until the
 * slot is in the middle half of the shard's share of all slots. `redis-cli --cluster create` assigns each master a range
 * of slots, in order. So if the number of shards is a multiple of the number of masters, all masters have equally many
 * shards, wherever the ranges end.
 *
 * After the prefix and `-` come the shard and the number of the try, so two prefixes never share a tag.
 * https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
 */
export function toHashTag(prefix: string, shard: number, shards: number): string {
  for (let attempt = 0; ; attempt++) {
    const tag = attempt === 0 ? `{${prefix}-${shard}}` : `{${prefix}-${shard}.${attempt}}`;
    const place = (calculateSlot(tag) / SLOTS) * shards - shard;
    if (shards === 1 || (place > 0.25 && place < 0.75)) return tag;
  }
}
