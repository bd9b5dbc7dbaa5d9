import { createTokenBuckets, PARTS_PER_TOKEN, type TokenBuckets } from '../token-buckets.js';
import { defineScripts, type Script } from './connect-redis.js';
import type { RedisClient } from './ioredis-workarounds.js';

/**
 * KEYS: the buckets. ARGV: per bucket the rate, the burst, the tokens wanted and the tokens returned.
 * Returns the clock in µs, and per bucket the tokens granted and the millionths of tokens left. The key of a bucket
 * expires when the bucket is full again.
 */
const RESERVE = `
local parts = ${PARTS_PER_TOKEN}
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local reserved = {}
for i, key in ipairs(KEYS) do
  local rate, burst, wanted, returned = unpack(ARGV, 4 * i - 3, 4 * i)
  rate, burst = tonumber(rate), burst * parts
  local bucket = redis.call('HMGET', key, 'debt', 'at')
  local passed = math.max(0, clock - (bucket[2] or clock))
  local debt = math.min(burst, math.max(0, (bucket[1] or 0) - returned * parts - rate * passed))
  local granted = math.min(tonumber(wanted), math.floor((burst - debt) / parts))
  debt = debt + granted * parts
  redis.call('HSET', key, 'debt', string.format('%.0f', debt), 'at', string.format('%.0f', clock))
  redis.call('PEXPIRE', key, math.ceil(debt / rate / 1000) + 1)
  reserved[i] = { granted, burst - debt }
end
return { clock, reserved }`;

type Scripts = { opmReserve: Script<[clock: number, reserved: [granted: number, available: number][]]> };

/** A project's bucket is in one shard, independent of the shards of its entries. Buckets of one shard share calls. */
export function createRedisTokenBuckets(
  redis: RedisClient,
  options: { shards: number; keyspaceOf: (shard: number) => string; maxWaitMs: number },
): TokenBuckets {
  const { shards, keyspaceOf, maxWaitMs } = options;
  const scripts = defineScripts<Scripts>(redis, { opmReserve: RESERVE });
  return createTokenBuckets({
    groupOf: (projectId) => projectId % shards,
    async reserveMany(shard, calls) {
      const keys = calls.map(({ projectId }) => `${keyspaceOf(shard)}:bucket:${projectId}`);
      const args = calls.flatMap(({ rate, burst, wanted, returned }) => [rate, burst, wanted, returned]);
      const [clock, reserved] = await scripts.opmReserve(keys, args);
      return reserved.map(([granted, available]) => ({ granted, available: available / PARTS_PER_TOKEN, clock }));
    },
    maxWaitMs,
  });
}
