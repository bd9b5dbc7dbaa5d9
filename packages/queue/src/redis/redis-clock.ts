import { withTimeout } from '@opm/core';
import { type DeadlineLimits, measureSkew } from '../clock-skew.js';
import { mastersOf, type RedisClient } from './connect-redis.js';

const TIMEOUT_MS = 1_000;

/**
 * KEYS: the queue's active jobs, its delayed jobs, its check for stalled ones. ARGV: what the keys of its jobs begin with; how
 * long a lock, the check and a delay may be, in ms. A lock's time is absolute inside of Redis, as a delay's is in BullMQ's.
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

type Scripts = { opmShortenDeadlines(keys: 3, ...keysAndArguments: (string | number)[]): Promise<void> };

/** Of each master that answers. */
export async function readClockSkews(redis: RedisClient): Promise<number[]> {
  const skews = mastersOf(redis).map((node) =>
    measureSkew(async () => {
      const [seconds, microseconds] = await withTimeout(node.time(), TIMEOUT_MS);
      return Number(seconds) * 1_000 + Number(microseconds) / 1_000;
    }),
  );
  const outcomes = await Promise.allSettled(skews);
  return outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
}

/** @param queue the prefix of its keys */
export function createShortenDeadlines(redis: RedisClient) {
  redis.defineCommand('opmShortenDeadlines', { lua: SHORTEN_DEADLINES });
  const scripts = redis as unknown as Scripts;
  return (queue: string, { lockMs, stalledMs, delayMs }: DeadlineLimits): Promise<void> => {
    const keys = ['active', 'delayed', 'stalled-check'].map((key) => `${queue}:${key}`);
    return scripts.opmShortenDeadlines(3, ...keys, `${queue}:`, lockMs, stalledMs, delayMs);
  };
}
