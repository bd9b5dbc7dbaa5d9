import { awaitAll, MAX_ANSWER_TIMEOUT_MS, singleFlight, type Version, withTimeout } from '@opm/core';
import type { Queue } from 'bullmq';
import type { Admission, ShardBacklog } from './admission.js';
import { readUnfinished } from './backlog.js';
import { MAX_CHUNK_ENTRIES } from './chunk.js';
import type { QueueBackend } from './queue-store.js';

/** Limits the wait for a shard whose Redis master is down: all other maintenance tasks wait behind it. */
const COUNT_TIMEOUT_MS = 10 * 1_000;
/** Timeout of reading the store's clock: masters of a cluster may be down. */
const CLOCK_TIMEOUT_MS = 1_000;
/** Timeout of a sweep, which reads all claims of a shard. */
const SWEEP_TIMEOUT_MS = 50 * 1_000;

export type ClearLeftovers = {
  /** Records the newest version of each shard. A claim can become old enough only after it was observed. */
  observe: () => Promise<void>;
  /**
   * Corrects and sweeps all shards.
   * @returns a version: each acknowledged entry below it is a row or a dead letter. Undefined if that is not known
   * @throws the error of the first shard that failed, after all have finished
   */
  clear: () => Promise<Version | undefined>;
};

/**
 * Corrects what killed processes and late calls leave behind: backlog counts that are too high or too low, and claims
 * without an entry. Each shard is handled separately.
 *
 * A claim's age is the time since this process observed its version or a newer one. The version itself does not show
 * the age, because the store's clock may have jumped.
 */
export function createClearLeftovers(
  admission: Pick<Admission, 'correctBacklog' | 'readVersion' | 'readShardBacklog' | 'sweep'>,
  queues: Queue[],
  readClock: QueueBackend['readClock'],
  orphanAgeMs = MAX_ANSWER_TIMEOUT_MS,
): ClearLeftovers {
  const shards = queues.map((queue, shard) => {
    /** Oldest first. All except the first are younger than `orphanAgeMs`. `at` is of `performance.now()`. */
    let observed: { version: Version; at: number }[] = [];

    /**
     * @returns the oldest version in the jobs, and when they were read; undefined if a job id is in an unknown format
     */
    const count = singleFlight(async () => {
      const readAt = performance.now();
      const before = await admission.readShardBacklog(shard);
      const { oldest, least, most, unknown } = await readUnfinished(queue);
      most.entries += unknown * MAX_CHUNK_ENTRIES;
      await admission.correctBacklog(
        shard,
        toCorrection([before, await admission.readShardBacklog(shard)], least, most),
      );
      return unknown === 0 ? { oldest, readAt } : undefined;
    }, COUNT_TIMEOUT_MS);
    const sweep = singleFlight(admission.sweep, SWEEP_TIMEOUT_MS);

    return {
      async observe() {
        const version = (await admission.readVersion(shard)) ?? 0;
        const at = performance.now();
        // A store that lost its newest versions may assign them again.
        if (observed.some((older) => older.version > version)) observed = [];
        else
          observed = [
            ...observed.slice(observed.findLastIndex((older) => older.at <= at - orphanAgeMs)),
            { version, at },
          ];
      },
      async clear(startedUs: Version | undefined) {
        const counted = await count();
        if (!counted) return undefined;
        // The claim must have been old when the jobs were read: the entry of a younger claim may have been enqueued
        // since.
        const old = observed.findLast(({ at }) => at <= counted.readAt - orphanAgeMs);
        if (!old) return undefined;
        await sweep(shard, Math.min(counted.oldest, old.version + 1));
        // The newest version of an idle shard is old, but its next entry gets a version that is not below the clock.
        return startedUs && Math.min(counted.oldest, Math.max(old.version + 1, startedUs - orphanAgeMs * 1_000));
      },
    };
  });
  return {
    observe: async () => void (await awaitAll(shards.map(({ observe }) => observe()))),
    async clear() {
      const started = await withTimeout(readClock(), CLOCK_TIMEOUT_MS).catch(() => undefined);
      const startedUs = started && started.getTime() * 1_000;
      const finished = await awaitAll(shards.map(({ clear }) => clear(startedUs)));
      return finished.reduce((a, b) => (a === undefined || b === undefined ? undefined : Math.min(a, b)));
    },
  };
}

/**
 * Compares the counts before and after the jobs were read with the entries in the jobs. The correction is positive if
 * both counts are below `least`, negative if both are above `most`, and otherwise 0.
 */
function toCorrection(counts: [ShardBacklog, ShardBacklog], least: ShardBacklog, most: ShardBacklog): ShardBacklog {
  const correct = (read: (backlog: ShardBacklog) => number) => {
    const [one, other] = counts.map(read) as [number, number];
    return Math.max(read(least) - Math.max(one, other), 0) + Math.min(read(most) - Math.min(one, other), 0);
  };
  const ofProjects = new Map<number, number>();
  for (const projectId of new Set([...counts, most].flatMap((backlog) => [...backlog.ofProjects.keys()]))) {
    const by = correct((backlog) => backlog.ofProjects.get(projectId) ?? 0);
    if (by !== 0) ofProjects.set(projectId, by);
  }
  return { entries: correct(({ entries }) => entries), ofProjects };
}
