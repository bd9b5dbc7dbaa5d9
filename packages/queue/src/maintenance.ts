import { closeWorkers } from './close-workers.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { addressOf } from './shards.js';

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
const RESET_INTERVAL_MS = 10 * 60 * 1_000;

/**
 * Runs the tasks as scheduled BullMQ jobs: one of the processes that do this gets each. A task that fails is due again
 * in its next period. Adds the queue's own tasks: resetting the backlogs of shards that are empty, and the sweeping of
 * expired claims, where its store needs one.
 */
export async function startMaintenance(options: MaintenanceOptions): Promise<{ close(): Promise<void> }> {
  const { onDone, onFailed, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const sweep = backend.admission.sweep;
  const tasks: Record<string, MaintenanceTask> = {
    ...options.tasks,
    'reset-backlogs': { everyMs: RESET_INTERVAL_MS, run: resetBacklogs },
    ...(sweep && { 'sweep-claims': { everyMs: SWEEP_INTERVAL_MS, run: sweep } }),
  };

  const queue = backend.createQueue(MAINTENANCE);
  const entryQueues = Array.from({ length: config.shards }, (_, shard) =>
    backend.createQueue(addressOf(shard), { skipMetasUpdate: true }),
  );
  async function resetBacklogs(): Promise<void> {
    for (const [shard, entryQueue] of entryQueues.entries()) {
      const jobs = await entryQueue.getJobCountByTypes('waiting', 'prioritized', 'active', 'delayed');
      if (jobs === 0) await backend.admission.resetBacklog(shard);
    }
  }
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
