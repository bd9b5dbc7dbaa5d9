import type { Queue } from 'bullmq';
import { checkShards } from './agree-on-shards.js';
import { MAINTENANCE } from './maintenance.js';
import { connectQueueBackend, type QueueBackend, type QueueConfig } from './queue-backend.js';
import { toAddresses } from './shards.js';

export type DashboardQueues = Pick<QueueBackend, 'check' | 'close'> & { queues: Queue[] };

/** The entry queues, by shard, and after them the one for maintenance, as the Bull dashboard wants them: for looking at, not for adding. */
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
      const [word] = await Promise.all([backend.check(), checkShards(backend, config.shards)]);
      return word;
    },
    close: () => backend.close(),
  };
}
