import type { Queue } from 'bullmq';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { addressOf } from './shards.js';

export type DashboardQueues = { queues: Queue[]; check(): Promise<void>; close(): Promise<void> };

/** The entry queues as the Bull dashboard wants them: for looking at, not for adding. */
export async function openDashboardQueues(
  options: QueueConfig & { signal: AbortSignal; onError: (error: Error) => void },
): Promise<DashboardQueues> {
  const { signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'dashboard', { signal, onError });
  const queues = Array.from({ length: config.shards }, (_, shard) =>
    backend.createQueue(addressOf(shard), { skipMetasUpdate: true }),
  );
  return {
    queues,
    check: () => backend.check(),
    async close() {
      await Promise.all(queues.map((queue) => queue.close()));
      await backend.close();
    },
  };
}
