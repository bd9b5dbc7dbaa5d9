import { setTimeout as delay } from 'node:timers/promises';
import type { EntryQueue } from '@opm/queue';
import pRetry from 'p-retry';
import { UserError } from './user-error.js';

/** Workers that have lost their connection come back well within this time. */
const PATIENCE_MS = 5_000;
const POLL_MS = 250;
/** Together half a minute: a queue's store that is started anew, or stands still for a moment, is waited for. */
export const QUEUE_RETRIES = { retries: 10, minTimeout: 100, maxTimeout: 5_000 };

/**
 * Entries that nobody reads would be neither rows nor dead letters.
 * @throws UserError where nobody does, Fault QUEUE_UNAVAILABLE
 */
export async function assertWorked(queue: Pick<EntryQueue, 'findIdle'>, patienceMs = PATIENCE_MS): Promise<void> {
  const findIdle = () => pRetry(() => queue.findIdle(), QUEUE_RETRIES);
  let idle = await findIdle();
  for (const startedAt = Date.now(); idle.length > 0 && Date.now() - startedAt < patienceMs; idle = await findIdle()) {
    await delay(POLL_MS);
  }
  if (idle.length === 0) return;
  throw new UserError(
    `no worker takes jobs from ${idle.join(', ')}: set REDIS_URL, REDIS_PREFIX and QUEUE_SHARDS as the workers have them, ` +
      'start one, or say --force',
  );
}
