import type { Version } from '@opm/core';
import type { Queue } from 'bullmq';
import { type Chunk, parseChunk } from './chunk.js';

const UNDONE = ['waiting', 'prioritized', 'active', 'delayed'] as const;
const STATES = [...UNDONE, 'failed'] as const;

/** What the queues hold, over all shards. */
export type Backlog = {
  jobs: Record<(typeof STATES)[number], number>;
  /** Milliseconds since the oldest of the jobs that come next in each state was enqueued; 0 where there is none. */
  oldestMs: number;
};

/** Jobs that are still to be done, those under way included. */
export const countUndone = (queue: Queue): Promise<number> => queue.getJobCountByTypes(...UNDONE);

/**
 * The oldest version of what is still to be done; the greatest of all where nothing is, and undefined where there are more
 * jobs than `most`. They are read twice: in PostgreSQL the states are read one after the other, and a job that goes back to an
 * earlier one would be in none.
 */
export async function readOldestVersion(queue: Queue, most: number): Promise<Version | undefined> {
  let oldest = Number.MAX_SAFE_INTEGER;
  for (let pass = 1; pass <= 2; pass++) {
    const jobs = await queue.getJobs([...UNDONE], 0, most);
    if (jobs.length > most) return undefined;
    for (const { data } of jobs) {
      for (const { version } of parseOrUndefined(data)?.entries ?? []) oldest = Math.min(oldest, version);
    }
  }
  return oldest;
}

function parseOrUndefined(data: unknown): Chunk | undefined {
  try {
    return parseChunk(data);
  } catch {
    return undefined; // no chunk, and so no claims
  }
}

export async function readBacklog(queues: Queue[]): Promise<Backlog> {
  const counts = await Promise.all(queues.map((queue) => queue.getJobCounts(...STATES)));
  const heads = await Promise.all(queues.map((queue) => queue.getJobs([...UNDONE], 0, 0, true)));
  // A job may be gone between the two steps in which BullMQ reads it.
  const now = Date.now();
  const oldest = Math.min(...heads.flat().flatMap((job) => job?.timestamp ?? []), now);
  return {
    jobs: Object.fromEntries(
      STATES.map((state) => [state, counts.reduce((sum, count) => sum + (count[state] ?? 0), 0)]),
    ) as Backlog['jobs'],
    oldestMs: now - oldest,
  };
}
