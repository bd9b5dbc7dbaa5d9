import { setTimeout as delay } from 'node:timers/promises';
import type { Worker } from 'bullmq';
import type { QueueBackend } from './queue-backend.js';

/** A worker's connection waits for a store that has just gone, so the question needs an end of its own. */
const PING_TIMEOUT_MS = 2_000;

/**
 * Takes no more jobs and waits for those under way; where their store is away, which might be for ever, it does not:
 * they go to another worker when their locks have run out.
 */
export async function closeWorkers(backend: QueueBackend, workers: Worker[]): Promise<void> {
  const ping = backend.ping().then(
    () => false,
    () => true,
  );
  const isAway = await Promise.race([ping, delay(PING_TIMEOUT_MS, true, { ref: false })]);
  await Promise.all(workers.map((worker) => worker.close(isAway)));
}
