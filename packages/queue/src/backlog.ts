import type { Version } from '@opm/core';
import type { Queue } from 'bullmq';
import { parseJobId } from './job-id.js';

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

/** What the jobs of a queue that are still to be done hold, those under way included, as their ids tell it. */
export type Undone = {
  /** The greatest of all where there is none. */
  oldest: Version;
  entries: Map<number, number>;
  /** Jobs whose ids do not tell: of an older release, or added by hand. */
  unknown: number;
};

/** Of each state, in one call: more than wait but after a long outage. */
const IDS_PER_CALL = 10_000;

export async function readUndone(queue: Queue): Promise<Undone> {
  const undone: Undone = { oldest: Number.MAX_SAFE_INTEGER, entries: new Map(), unknown: 0 };
  for (const id of await listUndone(queue)) {
    const summary = parseJobId(id);
    if (!summary) undone.unknown++;
    undone.oldest = Math.min(undone.oldest, summary?.oldest ?? Number.MAX_SAFE_INTEGER);
    for (const [projectId, entries] of summary?.entries ?? []) {
      undone.entries.set(projectId, (undone.entries.get(projectId) ?? 0) + entries);
    }
  }
  return undone;
}

/**
 * Each state is read from the end from which no job is taken, so that none slips through between two calls. All is read twice,
 * because a job may go back to a state that was read before: in PostgreSQL, and where one call is not enough.
 */
async function listUndone(queue: Queue): Promise<Set<string>> {
  const ids = new Set<string>();
  for (let pass = 1; pass <= 2; pass++) {
    for (let start = 0, listed = IDS_PER_CALL; listed >= IDS_PER_CALL; start += IDS_PER_CALL) {
      const page = await queue.getRanges([...UNDONE], start, start + IDS_PER_CALL - 1);
      for (const id of page) ids.add(id);
      listed = page.length;
    }
  }
  return ids;
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
