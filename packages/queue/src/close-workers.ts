import type { Worker } from 'bullmq';
import type { QueueBackend } from './queue-backend.js';

/**
 * Takes no more jobs and waits for those under way; where their store is away, which might be for ever, it does not:
 * they go to another worker when their locks have run out.
 */
export async function closeWorkers(backend: QueueBackend, workers: Worker[]): Promise<void> {
  const isAway = await backend.ping().then(
    () => false,
    () => true,
  );
  await Promise.all(workers.map((worker) => worker.close(isAway)));
}
