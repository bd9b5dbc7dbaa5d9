import { setTimeout as delay } from 'node:timers/promises';
import { withRedis } from '@opm/testkit';
import type { Count } from '../contenders.js';
import type { Load, LoadResult } from '../load/generators.js';
import { CONNECTIONS, runLoad } from '../load/run-load.js';
import type { Place } from '../servers.js';

const QUIET_MS = 250;

/**
 * Runs a load and compares its acknowledgements with the accepted entries, if these can be counted. The end of the load
 * cuts off at most one request per connection; these may be accepted without an acknowledgement.
 * @param run sends the load; measurements taken inside it exclude the counting
 * @throws Error if the numbers do not match
 */
export async function runCounted(
  place: Place,
  load: Load,
  count: Count | undefined,
  run: (load: Load) => Promise<LoadResult> = runLoad,
): Promise<LoadResult> {
  if (!count) return run(load);
  const before = await countWhenStable(place, count);
  const result = await run(load);
  const accepted = (await countWhenStable(place, count)) - before;
  const { batch = 1, connections = CONNECTIONS } = load;
  if (accepted < result.requests * batch || accepted > (result.requests + connections) * batch) {
    throw new Error(`${result.requests * batch} entries were acknowledged, but ${accepted} accepted`);
  }
  return result;
}

/** Counts once entries in flight from an earlier load are accepted too. */
async function countWhenStable(place: Place, count: Count): Promise<number> {
  for (let last = -1; ; ) {
    const now = await count(place);
    if (now === last) return now;
    last = now;
    await delay(QUIET_MS);
  }
}

/** CPU seconds that this Redis has used since it started. */
export async function readRedisSeconds(redisUrl: string): Promise<number> {
  const cpu = await withRedis(redisUrl, (redis) => redis.info('cpu'));
  const secondsOf = (what: string) => Number(new RegExp(`^used_cpu_${what}:([\\d.]+)`, 'm').exec(cpu)?.[1]);
  return secondsOf('user') + secondsOf('sys');
}
