import type { Queue } from 'bullmq';

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
