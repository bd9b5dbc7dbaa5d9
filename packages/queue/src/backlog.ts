import type { Version } from '@opm/core';
import type { Queue } from 'bullmq';
import type { Waiting } from './admission.js';
import { type JobSummary, parseJobId } from './job-id.js';

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
  /** In all of them. */
  most: Waiting;
  /** In those that have not been begun. Of others, some entries may be done. */
  least: Waiting;
  /** Jobs whose ids do not tell: of an older release, or added by hand. */
  unknown: number;
};

const WAITING = ['waiting', 'prioritized'] as const;

/** Of each state, in one call: more than wait but after a long outage. */
const IDS_PER_CALL = 10_000;

export async function readUndone(queue: Queue): Promise<Undone> {
  const first = await list(queue, UNDONE);
  const last = await list(queue, UNDONE); // a job may go back to a state that was read before
  const waiting = await list(queue, WAITING);
  const undone: Undone = { oldest: Number.MAX_SAFE_INTEGER, most: toNone(), least: toNone(), unknown: 0 };
  for (const id of new Set([...first, ...last])) {
    const summary = parseJobId(id);
    if (!summary) {
      undone.unknown++;
      continue;
    }
    undone.oldest = Math.min(undone.oldest, summary.oldest);
    add(undone.most, summary);
    if (first.has(id) && waiting.has(id)) add(undone.least, summary);
  }
  return undone;
}

const toNone = (): Waiting => ({ entries: 0, ofProjects: new Map() });

function add(waiting: Waiting, { entries, ofProjects }: JobSummary): void {
  waiting.entries += entries;
  for (const [projectId, count] of ofProjects) {
    waiting.ofProjects.set(projectId, (waiting.ofProjects.get(projectId) ?? 0) + count);
  }
}

/** The ids of the jobs in these states. Each is read from the end from which no job is taken, so that none slips through between two calls. */
async function list(queue: Queue, states: readonly (typeof UNDONE)[number][]): Promise<Set<string>> {
  const ids = new Set<string>();
  for (let start = 0, listed = IDS_PER_CALL; listed >= IDS_PER_CALL; start += IDS_PER_CALL) {
    const page = await queue.getRanges([...states], start, start + IDS_PER_CALL - 1);
    for (const id of page) ids.add(id);
    listed = page.length;
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
