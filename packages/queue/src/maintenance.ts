import { type Job, WaitingError } from 'bullmq';
import { createClearLeftovers } from './clear-leftovers.js';
import { TOLERANCE_MS } from './clock-skew.js';
import { closeWorkers } from './close-workers.js';
import { inTime, untilAborted } from './in-time.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { toAddresses } from './shards.js';

/** Work that is due once per period, however many processes there are. Doing it twice must change nothing. */
export type MaintenanceTask = {
  /** The first time is at once. */
  everyMs: number;
  run: () => Promise<unknown>;
};

export type MaintenanceOptions = QueueConfig & {
  tasks: Record<string, MaintenanceTask>;
  onDone: (task: string, result: unknown) => void;
  onFailed: (task: string, error: Error) => void;
  signal: AbortSignal;
  onError: (error: Error) => void;
};

export const MAINTENANCE = { name: 'maintenance' };
const HOUR_MS = 60 * 60 * 1_000;
const CLEAR_INTERVAL_MS = 30 * 1_000;
/** For what reads all keys. */
const SWEEP_TIMEOUT_MS = 60 * 1_000;

/**
 * Runs the tasks as scheduled BullMQ jobs: one of the processes that do this gets each. A task that fails is due again
 * in its next period; one that is under way when the signal is aborted goes to another process. Adds the queue's own tasks: correcting the backlogs, and sweeping claims and idempotency keys whose
 * time is over.
 */
export async function startMaintenance(options: MaintenanceOptions): Promise<{ close(): Promise<void> }> {
  const { onDone, onFailed, signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const queue = await backend.openQueue(MAINTENANCE);
  const entryQueues = await Promise.all(
    toAddresses(config.shards).map((address) => backend.openQueue(address, { skipMetasUpdate: true })),
  );

  const leftovers = createClearLeftovers(backend.admission, entryQueues);

  const tasks: Record<string, MaintenanceTask> = {
    ...options.tasks,
    'clear-leftovers': { everyMs: CLEAR_INTERVAL_MS, run: leftovers.clear },
    'sweep-idempotency-keys': {
      everyMs: HOUR_MS,
      run: inTime(() => backend.idempotency.sweep(), SWEEP_TIMEOUT_MS),
    },
  };
  async function runTask(job: Job, token?: string): Promise<void> {
    const run = async () => tasks[job.name]?.run();
    try {
      onDone(job.name, await untilAborted(run(), signal));
    } catch (error) {
      if (!signal.aborted) throw error;
      await job.moveToWait(token); // another process does it from the start
      throw new WaitingError();
    }
  }
  const worker = await backend.openWorker(MAINTENANCE, runTask, { autorun: false });
  worker.on('failed', (job, error) => onFailed(job?.name ?? 'unknown', error));
  const schedule = (name: string, { everyMs }: MaintenanceTask) =>
    queue.upsertJobScheduler(
      name,
      { every: everyMs },
      { name, opts: { removeOnComplete: true, removeOnFail: { count: 100 } } },
    );
  /**
   * Schedules a task anew if its next run is more than a period away: a store that came back empty has lost the schedule, the
   * clock may have been ahead when the run was scheduled, and BullMQ may have failed to write it.
   */
  async function mendSchedules(): Promise<void> {
    for (const [name, task] of Object.entries(tasks)) {
      const { next } = (await queue.getJobScheduler(name)) ?? {};
      if (next && Math.abs(next - Date.now()) <= task.everyMs + TOLERANCE_MS) continue;
      await queue.removeJobScheduler(name); // or BullMQ keeps the time of its next run
      await schedule(name, task);
    }
  }
  for (const [name, task] of Object.entries(tasks)) {
    // A master that must have a replica, and has none now, is there and refuses it.
    await backend.persist(() => schedule(name, task));
  }
  const look = () => {
    leftovers.observe().catch(onError);
    mendSchedules().catch(onError);
  };
  look();
  const timer = setInterval(look, CLEAR_INTERVAL_MS);
  worker.run().catch(onError);
  return {
    async close() {
      clearInterval(timer);
      await closeWorkers([{ queue, worker }]);
      await backend.close();
    },
  };
}
