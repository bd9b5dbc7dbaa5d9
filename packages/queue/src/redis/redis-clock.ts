import { withTimeout } from '@opm/core';
import type { DeadlineLimits } from '../admission.js';
import { measureSkew } from '../clock.js';
import { mastersOf } from './connect-redis.js';
import type { RedisClient } from './ioredis-workarounds.js';

const TIMEOUT_MS = 1_000;

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

type Scripts = { opmShortenDeadlines(keys: 3, ...keysAndArguments: (string | number)[]): Promise<void> };

/** The clock skews of all masters that answer, in ms. */
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

/**
 * Returns a function that shortens the deadlines of a queue. Its parameter `queue` is the prefix of the queue's keys.
 */
export function createShortenDeadlines(redis: RedisClient) {
  redis.defineCommand('opmShortenDeadlines', { lua: SHORTEN_DEADLINES });
  const scripts = redis as unknown as Scripts;
  return (queue: string, { lockMs, stalledMs, delayMs }: DeadlineLimits): Promise<void> => {
    const keys = ['active', 'delayed', 'stalled-check'].map((key) => `${queue}:${key}`);
    return scripts.opmShortenDeadlines(3, ...keys, `${queue}:`, lockMs, stalledMs, delayMs);
  };
}
