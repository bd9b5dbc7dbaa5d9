import { singleFlight, untilAborted, type Version } from '@opm/core';
import { type Job, WaitingError } from 'bullmq';
import { createClearLeftovers } from './clear-leftovers.js';
import { TOLERANCE_MS } from './clock.js';
import { closeWorkers } from './entry-worker.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { toAddresses } from './queue-store.js';

/** A task that runs once per period, whatever the number of processes. It must be idempotent. */
type MaintenanceTask = {
  /** Period in ms. The first run is immediate. */
  everyMs: number;
  run: () => Promise<unknown>;
};

type MaintenanceOptions = QueueConfig & {
  tasks: Record<string, MaintenanceTask>;
  /** Period in ms of repairing schedules and observing claims; 30 s by default. Tests set a shorter one. */
  repairEveryMs?: number;
  /** Called every half a minute: each acknowledged entry below this version is a row or a dead letter. */
  onFinished?: (before: Version) => Promise<void>;
  onDone: (task: string, result: unknown) => void;
  onFailed: (task: string, error: Error) => void;
  signal: AbortSignal;
  onError: (error: Error) => void;
};

export const MAINTENANCE = { name: 'maintenance' };
/** What each task does, for those who see its jobs. */
export const MAINTENANCE_TASKS: Record<string, string> = {
  'purge-tombstones': 'deletes what is left of customers that were erased long ago',
  'purge-dead-letters': 'deletes old dead letters that were replayed or discarded',
  'roll-up-activity': 'adds counts of minutes up to hours and days, and deletes old ones',
  'clear-leftovers': 'corrects the backlog counts and deletes old claims',
  'sweep-idempotency-keys': 'deletes expired idempotency keys',
};
const HOUR_MS = 60 * 60 * 1_000;
const CLEAR_INTERVAL_MS = 30 * 1_000;
/** Timeout of a sweep, which reads all idempotency keys. */
const SWEEP_TIMEOUT_MS = 60 * 1_000;

/**
 * Runs the tasks as scheduled BullMQ jobs, each in one of the processes that call this. A failed task runs again in
 * its next period. If the signal is aborted during a task, another process takes it over.
 *
 * Adds the queue's own tasks: correct the backlog counts, sweep old claims, sweep expired idempotency keys.
 * @throws the reason of the signal's abort
 */
export async function startMaintenance(options: MaintenanceOptions): Promise<{ close(): Promise<void> }> {
  const { onFinished, onDone, onFailed, signal, onError, repairEveryMs = CLEAR_INTERVAL_MS, ...config } = options;
  const backend = await connectQueueBackend(config, 'worker', { signal, onError });
  const queue = await backend.openQueue(MAINTENANCE);
  const entryQueues = await Promise.all(
    toAddresses(config.shards).map((address) => backend.openQueue(address, { skipMetasUpdate: true })),
  );

  const leftovers = createClearLeftovers(backend.admission, entryQueues, backend.readClock);
  async function clear(): Promise<void> {
    const before = await leftovers.clear();
    if (before !== undefined) await onFinished?.(before);
  }

  const tasks: Record<string, MaintenanceTask> = {
    ...options.tasks,
    'clear-leftovers': { everyMs: CLEAR_INTERVAL_MS, run: clear },
    'sweep-idempotency-keys': {
      everyMs: HOUR_MS,
      run: singleFlight(() => backend.idempotency.sweep(), SWEEP_TIMEOUT_MS),
    },
  };
  async function runTask(job: Job, token?: string): Promise<void> {
    const run = async () => tasks[job.name]?.run();
    try {
      onDone(job.name, await untilAborted(run(), signal));
    } catch (error) {
      if (!signal.aborted) throw error;
      await job.moveToWait(token); // another process restarts the task
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
   * Reschedules a task without a next run, or whose next run is more than a period away. A store that came back empty
   * has lost the schedule, the clock may have been ahead when BullMQ scheduled the run, or BullMQ failed to write it.
   */
  async function repairSchedules(): Promise<void> {
    for (const [name, task] of Object.entries(tasks)) {
      const { next } = (await queue.getJobScheduler(name)) ?? {};
      if (next && Math.abs(next - Date.now()) <= task.everyMs + TOLERANCE_MS) continue;
      await queue.removeJobScheduler(name); // otherwise BullMQ keeps the time of the next run
      await schedule(name, task);
    }
  }
  for (const [name, task] of Object.entries(tasks)) {
    // A Redis master below `min-replicas-to-write` answers, but rejects this write.
    await backend.retry(() => schedule(name, task));
  }
  const tick = () => {
    leftovers.observe().catch(onError);
    repairSchedules().catch(onError);
  };
  tick();
  const timer = setInterval(tick, repairEveryMs);
  worker.run().catch(onError);
  return {
    async close() {
      clearInterval(timer);
      await closeWorkers([{ queue, worker }]);
      await backend.close();
    },
  };
}
