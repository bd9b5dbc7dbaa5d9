import { setTimeout as delay } from 'node:timers/promises';
import type { Count } from '../contenders.js';
import { CONNECTIONS, type Load, type LoadResult, runLoad } from '../load/run-load.js';
import type { Place } from '../servers.js';

const QUIET_MS = 250;

/**
 * A load whose acknowledgements are held against what was accepted, where that can be counted. Requests that the end of
 * the load cuts off, one per connection at most, may be accepted without having been acknowledged.
 * @param run sends the load; who measures it otherwise does so in there, without the counting
 */
export async function runCounted(
  place: Place,
  load: Load,
  count: Count | undefined,
  run: (load: Load) => Promise<LoadResult> = runLoad,
): Promise<LoadResult> {
  if (!count) return run(load);
  const before = await countAtRest(place, count);
  const result = await run(load);
  const accepted = (await countAtRest(place, count)) - before;
  const { batch = 1, connections = CONNECTIONS } = load;
  if (accepted < result.requests * batch || accepted > (result.requests + connections) * batch) {
    throw new Error(`${result.requests * batch} entries were acknowledged, but ${accepted} accepted`);
  }
  return result;
}

/** Once what an earlier load has left under way is accepted too. */
async function countAtRest(place: Place, count: Count): Promise<number> {
  for (let last = -1; ; ) {
    const now = await count(place);
    if (now === last) return now;
    last = now;
    await delay(QUIET_MS);
  }
}
