import { PARTS_PER_TOKEN, type TokenBuckets } from '../token-buckets.js';
import type { RedisClient } from './connect-redis.js';

/**
 * KEYS: the bucket. ARGV: the rate, the burst, the tokens wanted, those returned. Answers with the tokens granted, the
 * parts of tokens that are left, and the clock. A bucket that is full again has no key.
 */
const LEASE = `
local parts = ${PARTS_PER_TOKEN}
local rate, burst, wanted, returned = tonumber(ARGV[1]), ARGV[2] * parts, tonumber(ARGV[3]), ARGV[4] * parts
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local bucket = redis.call('HMGET', KEYS[1], 'debt', 'at')
local passed = math.max(0, clock - (bucket[2] or clock))
local debt = math.min(burst, math.max(0, (bucket[1] or 0) - returned - rate * passed))
local granted = math.min(wanted, math.floor((burst - debt) / parts))
debt = debt + granted * parts
redis.call('HSET', KEYS[1], 'debt', string.format('%.0f', debt), 'at', string.format('%.0f', clock))
redis.call('PEXPIRE', KEYS[1], math.ceil(debt / rate / 1000) + 1)
return { granted, burst - debt, clock }`;

type Scripts = {
  opmLease(
    keys: 1,
    key: string,
    rate: number,
    burst: number,
    wanted: number,
    returned: number,
  ): Promise<[granted: number, available: number, clock: number]>;
};

export function createRedisTokenBuckets(redis: RedisClient, keyspace: (projectId: number) => string): TokenBuckets {
  redis.defineCommand('opmLease', { lua: LEASE });
  const scripts = redis as unknown as Scripts;
  return {
    async lease(projectId, { rate, burst }, { wanted, returned }) {
      const key = `${keyspace(projectId)}:bucket`;
      const [granted, available, clock] = await scripts.opmLease(1, key, rate, burst, wanted, returned);
      return { granted, available: available / PARTS_PER_TOKEN, clock };
    },
  };
}
