import { MAX_CHUNK_ENTRIES } from './chunk.js';
import { closeWorkers } from './close-workers.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { toAddresses } from './shards.js';

/** Work that is due once per period, however many processes there are. Doing it twice must change nothing. */
export type MaintenanceTask = { everyMs: number; run: () => Promise<unknown> };

export type MaintenanceOptions = QueueConfig & {
  tasks: Record<string, MaintenanceTask>;
  onDone: (task: string, result: unknown) => void;
  onFailed: (task: string, error: Error) => void;
  signal: AbortSignal;
  onError: (error: Error) => void;
};

export const MAINTENANCE = { name: 'maintenance', slot: 'maintenance' };
const SWEEP_INTERVAL_MS = 60 * 60 * 1_000;
const LIMIT_INTERVAL_MS = 60 * 1_000;

/**
 * Runs the tasks as scheduled BullMQ jobs: one of the processes that do this gets each. A task that fails is due again
 * in its next period. Adds the queue's own tasks: correcting the backlogs, and sweeping claims whose time is over.
 */
export async function startMaintenance(options: MaintenanceOptions): Promise<{ close(): Promise<void> }> {
  const { onDone, onFailed, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const queue = backend.createQueue(MAINTENANCE);
  const entryQueues = toAddresses(config.shards).map((address) =>
    backend.createQueue(address, { skipMetasUpdate: true }),
  );

  async function limitBacklogs(): Promise<void> {
    for (const [shard, entryQueue] of entryQueues.entries()) {
      const jobs = await entryQueue.getJobCountByTypes('waiting', 'prioritized', 'active', 'delayed');
      await backend.admission.limitBacklog(shard, jobs * MAX_CHUNK_ENTRIES);
    }
  }

  async function sweepClaims(): Promise<void> {
    for (const shard of entryQueues.keys()) await backend.admission.sweep(shard);
  }

  const tasks: Record<string, MaintenanceTask> = {
    ...options.tasks,
    'limit-backlogs': { everyMs: LIMIT_INTERVAL_MS, run: limitBacklogs },
    'sweep-claims': { everyMs: SWEEP_INTERVAL_MS, run: sweepClaims },
  };
  const worker = backend
    .createWorker(MAINTENANCE, async ({ name }) => onDone(name, await tasks[name]?.run()), { autorun: false })
    .on('failed', (job, error) => onFailed(job?.name ?? 'unknown', error));
  for (const [name, { everyMs }] of Object.entries(tasks)) {
    const opts = { removeOnComplete: true, removeOnFail: { count: 100 } };
    await queue.upsertJobScheduler(name, { every: everyMs }, { name, opts });
  }
  worker.run().catch(onError);
  return {
    async close() {
      await closeWorkers(backend, [worker]);
      await Promise.all([queue, ...entryQueues].map((each) => each.close()));
      await backend.close();
    },
  };
}
