import { withTimeout } from '@opm/core';
import type { Queue, Worker } from 'bullmq';

/** A worker's connection waits for a store that has just gone, so the question needs an end of its own. */
const PING_TIMEOUT_MS = 2_000;

/**
 * Takes no more jobs and waits for those under way. A queue whose store is away, which might be for ever, is not waited for: its
 * jobs go to another worker when their locks have run out. Queues may be on different masters, so each is asked by itself.
 */
export async function closeWorkers(workers: { queue: Queue; worker: Worker }[]): Promise<void> {
  await Promise.all(workers.map(async ({ queue, worker }) => worker.close(await isAway(queue))));
}

const isAway = (queue: Queue): Promise<boolean> =>
  withTimeout(queue.isPaused(), PING_TIMEOUT_MS).then(
    () => false,
    () => true,
  );
