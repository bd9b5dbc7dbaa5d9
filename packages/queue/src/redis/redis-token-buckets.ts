import { createTokenBuckets, PARTS_PER_TOKEN, type TokenBuckets } from '../token-buckets.js';
import type { RedisClient } from './connect-redis.js';

/**
 * KEYS: the buckets. ARGV: of each the rate, the burst, the tokens wanted, those returned. Answers with the clock, and of each
 * bucket with the tokens granted and the parts of tokens that are left. A bucket that is full again has no key.
 */
const LEASE = `
local parts = ${PARTS_PER_TOKEN}
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local leased = {}
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
  leased[i] = { granted, burst - debt }
end
return { clock, leased }`;

type Scripts = {
  opmLease(
    keyCount: number,
    keys: string[],
    limitsAndCalls: number[],
  ): Promise<[clock: number, leased: [granted: number, available: number][]]>;
};

/** A project's bucket is in one of the shards, whichever its entries are in: so those of a shard share calls. */
export function createRedisTokenBuckets(
  redis: RedisClient,
  options: { shards: number; keyspaceOf: (shard: number) => string; maxWaitMs: number },
): TokenBuckets {
  const { shards, keyspaceOf, maxWaitMs } = options;
  redis.defineCommand('opmLease', { lua: LEASE });
  const scripts = redis as unknown as Scripts;
  return createTokenBuckets({
    place: (projectId) => projectId % shards,
    async leaseMany(shard, calls) {
      const keys = calls.map(({ projectId }) => `${keyspaceOf(shard)}:bucket:${projectId}`);
      const args = calls.flatMap(({ rate, burst, wanted, returned }) => [rate, burst, wanted, returned]);
      const [clock, leased] = await scripts.opmLease(keys.length, keys, args);
      return leased.map(([granted, available]) => ({ granted, available: available / PARTS_PER_TOKEN, clock }));
    },
    maxWaitMs,
  });
}
