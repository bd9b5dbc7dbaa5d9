import { withTimeout } from '@opm/core';
import { createRedisBackend, Queue, withBackend } from 'bullmq';
import calculateSlot from 'cluster-key-slot';
import { PRIORITIES } from '../backlog.js';
import { measureSkew } from '../clock.js';
import { toMaxBytes } from '../idempotency.js';
import type { DeadlineLimits, QueueAddress, QueueStore } from '../queue-store.js';
import { withBackOff } from '../retry-policy.js';
import {
  connectRedis,
  defineScripts,
  mastersOf,
  type RedisConnection,
  type Script,
  waitUntilReady,
} from './connect-redis.js';
import { createHighWaterMarkReader } from './high-water-mark.js';
import type { RedisClient } from './ioredis-workarounds.js';
import { createRedisAdmission } from './redis-admission.js';
import { checkRedis, readMemory } from './redis-health.js';
import { createRedisIdempotency } from './redis-idempotency.js';
import { createRedisTokenBuckets } from './redis-token-buckets.js';

type RedisStoreOptions = RedisConnection & { databaseUrl: string; prefix: string; shards: number };

export function createRedisStore(options: RedisStoreOptions): QueueStore {
  const { databaseUrl, prefix, shards, ...connection } = options;
  const redis = connectRedis(connection);
  const highWaterMark = createHighWaterMarkReader({ databaseUrl, ...connection });
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
    admission: createRedisAdmission(redis, { keyspaceOf, common: `{${prefix}-0}`, highWaterMark }),
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
    findOldest,
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
      await highWaterMark.close();
    },
  };
}

/** Reads the first job of each state and priority. */
async function findOldest(queue: Queue): Promise<number | undefined> {
  const ofPriorities = await queue.getCountsPerPriority(PRIORITIES);
  let place = 0; // BullMQ lists prioritized jobs by priority, then in order
  const places = PRIORITIES.flatMap((priority) => {
    const count = ofPriorities[priority] ?? 0;
    place += count;
    return count > 0 ? [place - count] : [];
  });
  const heads = await Promise.all([
    queue.getJobs(['waiting', 'active', 'delayed'], 0, 0, true),
    ...places.map((at) => queue.getJobs(['prioritized'], at, at, true)),
  ]);
  // BullMQ reads a job in two steps. If the job ends in between, it returns undefined.
  const times = heads.flat().flatMap((job) => job?.timestamp ?? []);
  return times.length > 0 ? Math.min(...times) : undefined;
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

const CLOCK_TIMEOUT_MS = 1_000;

/**
 * KEYS: 1 the queue's active jobs, 2 its delayed jobs, 3 its stalled check.
 * ARGV: 1 the prefix of the job keys; 2 to 4 the limits of a job lock, of the stalled check and of a delay, in ms.
 * Redis stores the expiry of a lock as an absolute time, and BullMQ does so with the time of a delayed job.
 */
const SHORTEN_DEADLINES = `
local call = redis.call
local time = call('TIME')
local latest = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
local function shorten(key, ms) if call('PTTL', key) > tonumber(ms) then call('PEXPIRE', key, ms) end end
for _, id in ipairs(call('LRANGE', KEYS[1], 0, 999)) do shorten(ARGV[1] .. id .. ':lock', ARGV[2]) end
for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[2], (latest + 1) * 4096, '+inf', 'LIMIT', 0, 1000)) do
  call('ZADD', KEYS[2], latest * 4096, id)
end
shorten(KEYS[3], ARGV[3])`;

/** The clock skews of all masters that answer, in ms. */
async function readClockSkews(redis: RedisClient): Promise<number[]> {
  const skews = mastersOf(redis).map((node) =>
    measureSkew(async () => {
      const [seconds, microseconds] = await withTimeout(node.time(), CLOCK_TIMEOUT_MS);
      return Number(seconds) * 1_000 + Number(microseconds) / 1_000;
    }),
  );
  const outcomes = await Promise.allSettled(skews);
  return outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
}

/**
 * Returns a function that shortens the deadlines of a queue. Its parameter `queue` is the prefix of the queue's keys.
 */
function createShortenDeadlines(redis: RedisClient) {
  type Scripts = { opmShortenDeadlines: Script<void> };
  const scripts = defineScripts<Scripts>(redis, { opmShortenDeadlines: SHORTEN_DEADLINES });
  return (queue: string, { lockMs, stalledMs, delayMs }: DeadlineLimits): Promise<void> => {
    const keys = ['active', 'delayed', 'stalled-check'].map((key) => `${queue}:${key}`);
    return scripts.opmShortenDeadlines(keys, `${queue}:`, lockMs, stalledMs, delayMs);
  };
}

const SLOTS = 16_384;

/**
 * The hash tag of a shard, such as `{opm-0}` or `{opm-0.42}`. It tries `{opm-0}`, `{opm-0.1}`, `{opm-0.2}` … until the
 * slot is in the middle half of the shard's share of all slots. `redis-cli --cluster create` assigns each master a
 * range of slots, in order. So if the number of shards is a multiple of the number of masters, all masters have equally
 * many shards, wherever the ranges end.
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
