import type { Version } from '@opm/core';
import type { JobType, Queue } from 'bullmq';
import type { Waiting } from './admission.js';
import { type JobSummary, parseJobId } from './chunk.js';

const UNFINISHED = ['waiting', 'prioritized', 'active', 'delayed'] as const;
const STATES = [...UNFINISHED, 'failed'] as const;

/** The jobs in the queues of all shards. */
export type Backlog = {
  jobs: Record<(typeof STATES)[number], number>;
  /** Age in ms of the oldest unfinished job, see `findOldest` of `QueueStore`; 0 if there is none. */
  oldestMs: number;
};

/** How BullMQ (6.7) counts the waiting jobs of a paused queue on PostgreSQL; its types lack it. It lists them as waiting. */
const PAUSED = 'paused' as JobType;

/** Number of waiting jobs without a priority, also of a paused queue. */
export const countWaiting = (queue: Queue): Promise<number> => queue.getJobCountByTypes('waiting', PAUSED);

/** Number of unfinished jobs, including active ones. */
export const countUnfinished = (queue: Queue): Promise<number> => queue.getJobCountByTypes(...UNFINISHED, PAUSED);

/** The contents of a queue's unfinished jobs, including active ones, read from the job ids. */
type UnfinishedJobs = {
  /** The oldest version; `Number.MAX_SAFE_INTEGER` if there is none. */
  oldest: Version;
  /** The entries of all these jobs. */
  most: Waiting;
  /** The entries of the jobs that have not started. In a started job, some entries may be done. */
  least: Waiting;
  /** Jobs with ids in another format: from an older release, or added by hand. */
  unknown: number;
};

const WAITING = ['waiting', 'prioritized'] as const;

/** Ids of each state per call. One call suffices except after a long outage. */
const IDS_PER_CALL = 10_000;

/** Reads the ids of a queue's unfinished jobs, without their data. */
export async function readUnfinished(queue: Queue): Promise<UnfinishedJobs> {
  const first = await list(queue, UNFINISHED);
  const last = await list(queue, UNFINISHED); // a job may return to a state that was already read
  const waiting = await list(queue, WAITING);
  const unfinished: UnfinishedJobs = { oldest: Number.MAX_SAFE_INTEGER, most: toNone(), least: toNone(), unknown: 0 };
  for (const id of new Set([...first, ...last])) {
    const summary = parseJobId(id);
    if (!summary) {
      unfinished.unknown++;
      continue;
    }
    unfinished.oldest = Math.min(unfinished.oldest, summary.oldest);
    add(unfinished.most, summary);
    if (first.has(id) && waiting.has(id)) add(unfinished.least, summary);
  }
  return unfinished;
}

/** The versions of the entries that a job holds, from the first to the last. */
export type VersionRange = [first: Version, last: Version];

/**
 * Lists the versions in a queue's unfinished jobs, from the job ids. Entries of a chunk follow one another, except in a
 * repeat with an idempotency key, whose range is that of its claims, and in replays.
 */
export async function listVersions(queue: Queue): Promise<VersionRange[]> {
  const first = await list(queue, UNFINISHED);
  const last = await list(queue, UNFINISHED); // a job may return to a state that was already read
  return [...new Set([...first, ...last])].flatMap((id): VersionRange[] => {
    const summary = parseJobId(id);
    return summary ? [[summary.oldest, summary.oldest + summary.entries - 1]] : [];
  });
}

const toNone = (): Waiting => ({ entries: 0, ofProjects: new Map() });

function add(waiting: Waiting, { entries, ofProjects }: JobSummary): void {
  waiting.entries += entries;
  for (const [projectId, count] of ofProjects) {
    waiting.ofProjects.set(projectId, (waiting.ofProjects.get(projectId) ?? 0) + count);
  }
}

/**
 * The ids of the jobs in these states. Reads from the end from which BullMQ takes no job, so that no id is missed
 * between two calls.
 */
async function list(queue: Queue, states: readonly (typeof UNFINISHED)[number][]): Promise<Set<string>> {
  const ids = new Set<string>();
  for (let start = 0, listed = IDS_PER_CALL; listed >= IDS_PER_CALL; start += IDS_PER_CALL) {
    const page = await queue.getRanges([...states], start, start + IDS_PER_CALL - 1);
    for (const id of page) ids.add(id);
    listed = page.length;
  }
  return ids;
}

/**
 * Entries of a project that wait. The number is sampled (see `countSampled`): off by about four times its square root,
 * and often 0 for a few entries. `oldestMs`: age of the oldest job with a sampled entry.
 */
export type ProjectBacklog = { entries: number; oldestMs: number };

/** By project id, from the ids of the unfinished jobs. */
export async function readProjectBacklogs(queues: Queue[], now: Date): Promise<Map<number, ProjectBacklog>> {
  const backlogs = new Map<number, ProjectBacklog>();
  for (const ids of await Promise.all(queues.map((queue) => list(queue, UNFINISHED)))) {
    for (const id of ids) {
      const { oldest, ofProjects } = parseJobId(id) ?? { oldest: 0, ofProjects: [] };
      for (const [projectId, count] of ofProjects) {
        const backlog = backlogs.get(projectId) ?? { entries: 0, oldestMs: 0 };
        backlog.entries += count;
        backlog.oldestMs = Math.max(backlog.oldestMs, now.getTime() - oldest / 1_000);
        backlogs.set(projectId, backlog);
      }
    }
  }
  return backlogs;
}

/** @param findOldest see `QueueStore` */
export async function readBacklog(
  queues: Queue[],
  findOldest: (queue: Queue) => Promise<number | undefined>,
  now = Date.now(),
): Promise<Backlog> {
  const counts = await Promise.all(queues.map((queue) => queue.getJobCounts(...STATES, PAUSED)));
  const oldest = await Promise.all(queues.map(findOldest));
  const countOf = (state: string) => counts.reduce((sum, count) => sum + (count[state] ?? 0), 0);
  const jobs = Object.fromEntries(STATES.map((state) => [state, countOf(state)])) as Backlog['jobs'];
  return {
    jobs: { ...jobs, waiting: jobs.waiting + countOf(PAUSED) },
    oldestMs: now - Math.min(now, ...oldest.map((time = now) => time)),
  };
}

/** Up to this many entries, a project delays others only briefly: a small installation persists them in a second. */
const SHORT_BACKLOG = 128;
/** Large, so that there are few priorities: the ingress does not mix priorities in a chunk. */
const STEP = 16;
/** The least that `toShortBacklog` returns. */
export const MIN_SHORT_BACKLOG = SHORT_BACKLOG / Math.sqrt(STEP);

/**
 * The longest backlog with priority 0, 32 to 512 entries, if projects typically have this many entries waiting. It puts
 * the typical backlog in the middle of a priority, so that projects with up to 4 times more or less share jobs.
 * With a fixed limit, equal projects whose backlogs pass it together would be on both sides of it.
 */
export function toShortBacklog(typical: number): number {
  const steps = Math.log(Math.max(typical, MIN_SHORT_BACKLOG) / SHORT_BACKLOG) / Math.log(STEP);
  return MIN_SHORT_BACKLOG * STEP ** (steps - Math.floor(steps));
}

/**
 * The BullMQ priority of a job whose projects have this many entries waiting in the shard. 0, which BullMQ takes
 * first, up to `short` entries; plus 1 for each factor of 16. Jobs of a project may overtake each other, because
 * entries merge in any order.
 */
export function toPriority(backlog: number, short = SHORT_BACKLOG): number {
  return backlog <= short ? 0 : Math.ceil(Math.log(backlog / short) / Math.log(STEP));
}

/** All priorities that `toPriority` returns, except 0. */
export const PRIORITIES = Array.from(
  { length: toPriority(Number.MAX_SAFE_INTEGER, MIN_SHORT_BACKLOG) },
  (_, i) => i + 1,
);
