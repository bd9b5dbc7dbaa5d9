import type { Version } from '@opm/core';
import { type Job, type Queue, WaitingError } from 'bullmq';
import { CLAIM_TTL_MS } from './admission.js';
import { countUndone, readOldestVersion } from './backlog.js';
import { MAX_CHUNK_ENTRIES } from './chunk.js';
import { closeWorkers } from './close-workers.js';
import { allDone, inTime, untilAborted } from './in-time.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { toAddresses } from './shards.js';

/** Work that is due once per period, however many processes there are. Doing it twice must change nothing. */
export type MaintenanceTask = {
  /** Milliseconds, and for the first time at once; or a cron expression. */
  repeat: { every: number } | { pattern: string };
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
const ON_THE_HOUR = '0 * * * *';
const CLEAR_INTERVAL_MS = 30 * 1_000;
/** No ingress enqueues what it has admitted so long ago. */
const ORPHAN_AGE_MS = 30 * 1_000;
/** Where a master is away, they wait for it: neither the other shards' backlogs nor the other tasks should wait behind that. */
const SHARD_TIMEOUT_MS = 10 * 1_000;
/** For what reads all claims, or all keys, and for a task as a whole. */
const SWEEP_TIMEOUT_MS = 60 * 1_000;
/** Of a shard; so many jobs are read to learn which claims are none of theirs. */
const MAX_READ_JOBS = 200;

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

  const shards = entryQueues.map((entryQueue, shard) => ({
    limitBacklog: inTime(() => limitBacklog(entryQueue, shard), SHARD_TIMEOUT_MS),
    findOldest: inTime(() => findOldest(entryQueue), SHARD_TIMEOUT_MS),
    sweepClaims: inTime(
      (olderThanMs: number, before?: Version) => backend.admission.sweep(shard, olderThanMs, before),
      SWEEP_TIMEOUT_MS,
    ),
  }));

  /** Processes that were killed, and calls that came too late, leave entries that count as waiting, and claims without one. */
  async function clearLeftovers(): Promise<void> {
    const jobs = await allDone(shards.map((shard) => shard.limitBacklog()));
    if (jobs.some((count) => count > MAX_READ_JOBS)) return;
    let oldest: Version = Number.MAX_SAFE_INTEGER;
    for (const shard of shards) {
      const own = await shard.findOldest();
      if (own === undefined) return;
      oldest = Math.min(oldest, own);
    }
    await sweepClaims(ORPHAN_AGE_MS, oldest);
  }

  /** @returns a version than which no claim of a waiting entry is older; undefined where too many jobs wait to know one */
  async function findOldest(entryQueue: Queue): Promise<Version | undefined> {
    const begun = (Date.now() - ORPHAN_AGE_MS) * 1_000; // what comes while jobs are read is newer
    const own = await readOldestVersion(entryQueue, MAX_READ_JOBS);
    return own === undefined ? undefined : Math.min(own, begun);
  }

  /** @returns how many jobs of the shard are not done */
  async function limitBacklog(entryQueue: Queue, shard: number): Promise<number> {
    const jobs = await countUndone(entryQueue);
    await backend.admission.limitBacklog(shard, jobs * MAX_CHUNK_ENTRIES);
    return jobs;
  }

  const sweepClaims = (...older: [olderThanMs: number, before?: Version]) =>
    allDone(shards.map((shard) => shard.sweepClaims(...older)));

  const tasks: Record<string, MaintenanceTask> = {
    ...options.tasks,
    'clear-leftovers': { repeat: { every: CLEAR_INTERVAL_MS }, run: inTime(clearLeftovers, SWEEP_TIMEOUT_MS) },
    // Not at once: it reads all claims, and the first worker to start may have a backlog to work off.
    'sweep-claims': { repeat: { pattern: ON_THE_HOUR }, run: () => sweepClaims(CLAIM_TTL_MS) },
    'sweep-idempotency-keys': {
      repeat: { every: HOUR_MS },
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
  for (const [name, { repeat }] of Object.entries(tasks)) {
    const opts = { removeOnComplete: true, removeOnFail: { count: 100 } };
    // A master that must have a replica, and has none now, is there and refuses it.
    await backend.persist(() => queue.upsertJobScheduler(name, repeat, { name, opts }));
  }
  worker.run().catch(onError);
  return {
    async close() {
      await closeWorkers([{ queue, worker }]);
      await backend.close();
    },
  };
}
