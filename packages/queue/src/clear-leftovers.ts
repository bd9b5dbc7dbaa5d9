import type { Version } from '@opm/core';
import type { Queue } from 'bullmq';
import type { Admission, Waiting } from './admission.js';
import { readUndone } from './backlog.js';
import { MAX_CHUNK_ENTRIES } from './chunk.js';
import { allDone, inTime } from './in-time.js';

/** An ingress enqueues nothing that it admitted so long ago. */
const ORPHAN_AGE_MS = 30 * 1_000;
/** Bounds the wait for a shard whose master is away, because all other tasks wait behind it. */
const COUNT_TIMEOUT_MS = 10 * 1_000;
/** For what reads all claims. */
const SWEEP_TIMEOUT_MS = 50 * 1_000;

export type ClearLeftovers = {
  /** Notes the newest version of each shard. Without it no claim is ever old enough. */
  observe: () => Promise<void>;
  /** @throws the reason of the first shard that failed, when all are done */
  clear: () => Promise<void>;
};

/**
 * Killed processes, and calls that came too late, leave entries that count as waiting, and claims without an entry. This corrects
 * both, in each shard by itself. A claim's age is how long ago this process saw its version, or a newer one: the store's clock,
 * which versions follow, may have jumped.
 */
export function createClearLeftovers(
  admission: Pick<Admission, 'correctBacklog' | 'readVersion' | 'readWaiting' | 'sweep'>,
  queues: Queue[],
  orphanAgeMs = ORPHAN_AGE_MS,
): ClearLeftovers {
  const shards = queues.map((queue, shard) => {
    /** Oldest first. All but the first are younger than `orphanAgeMs`. */
    let observed: { version: Version; at: number }[] = [];

    /** @returns the version below which no entry waits, and when the jobs were read; undefined if the jobs do not tell */
    const count = inTime(async () => {
      const readAt = performance.now();
      const before = await admission.readWaiting(shard);
      const { oldest, least, most, unknown } = await readUndone(queue);
      most.entries += unknown * MAX_CHUNK_ENTRIES;
      await admission.correctBacklog(shard, toCorrection([before, await admission.readWaiting(shard)], least, most));
      return unknown === 0 ? { oldest, readAt } : undefined;
    }, COUNT_TIMEOUT_MS);
    const sweep = inTime(admission.sweep, SWEEP_TIMEOUT_MS);

    return {
      async observe() {
        const version = await admission.readVersion(shard);
        const at = performance.now();
        // A store that lost its newest versions may give them again.
        if (version === undefined || observed.some((older) => older.version > version)) observed = [];
        else
          observed = [
            ...observed.slice(observed.findLastIndex((older) => older.at <= at - orphanAgeMs)),
            { version, at },
          ];
      },
      async clear() {
        const counted = await count();
        if (!counted) return;
        // A claim must have been that old when the jobs were read: a younger one may be of an entry that was enqueued since.
        const old = observed.findLast(({ at }) => at <= counted.readAt - orphanAgeMs);
        if (old) await sweep(shard, Math.min(counted.oldest, old.version + 1));
      },
    };
  });
  return {
    observe: async () => void (await allDone(shards.map(({ observe }) => observe()))),
    clear: async () => void (await allDone(shards.map(({ clear }) => clear()))),
  };
}

/** How far the counts, before and after the jobs were read, are both below the least, or both above the most, that the jobs hold. */
function toCorrection(counts: [Waiting, Waiting], least: Waiting, most: Waiting): Waiting {
  const correct = (read: (waiting: Waiting) => number) => {
    const [one, other] = counts.map(read) as [number, number];
    return Math.max(read(least) - Math.max(one, other), 0) + Math.min(read(most) - Math.min(one, other), 0);
  };
  const ofProjects = new Map<number, number>();
  for (const projectId of new Set([...counts, most].flatMap((waiting) => [...waiting.ofProjects.keys()]))) {
    const by = correct((waiting) => waiting.ofProjects.get(projectId) ?? 0);
    if (by !== 0) ofProjects.set(projectId, by);
  }
  return { entries: correct(({ entries }) => entries), ofProjects };
}
