import type { Queue } from 'bullmq';
import { toAddresses } from './admission.js';
import { MAINTENANCE } from './maintenance.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import type { QueueBackend } from './queue-store.js';
import { checkShards } from './shard-check.js';

export type DashboardQueues = Pick<QueueBackend, 'check' | 'close'> & { queues: Queue[] };

/**
 * Opens the entry queues, by shard, followed by the maintenance queue, for the Bull dashboard. Do not add jobs to them.
 * @throws the reason of the signal's abort
 */
export async function openDashboardQueues(
  options: QueueConfig & { signal: AbortSignal; onError: (error: Error) => void },
): Promise<DashboardQueues> {
  const { signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'dashboard', { signal, onError });
  const addresses = [...toAddresses(config.shards), MAINTENANCE];
  const queues = await Promise.all(addresses.map((address) => backend.openQueue(address, { skipMetasUpdate: true })));
  return {
    queues,
    async check() {
      const [warning] = await Promise.all([backend.check(), checkShards(backend, config.shards)]);
      return warning;
    },
    close: () => backend.close(),
  };
}
