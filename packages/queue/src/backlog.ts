import type { Version } from '@opm/core';
import type { JobType, Queue } from 'bullmq';
import type { ShardBacklog } from './admission.js';
import { type JobSummary, parseJobId } from './chunk.js';

const UNFINISHED = ['waiting', 'prioritized', 'active', 'delayed'] as const;
const STATES = [...UNFINISHED, 'failed'] as const;

/** The jobs in the queues of all shards. */
export type Backlog = {
  jobs: Record<(typeof STATES)[number], number>;
  /** Age in ms of the oldest unfinished job, see `findOldest` of `QueueStore`; 0 if there is none. */
  oldestMs: number;
};

/**
 * How BullMQ (6.7) counts the waiting jobs of a paused queue on PostgreSQL; its types lack it. It lists them as
 * waiting.
 */
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
  most: ShardBacklog;
  /** The entries of the jobs that have not started. In a started job, some entries may be done. */
  least: ShardBacklog;
  /** Jobs with ids in another format: from an older release, or added by hand. */
  unknown: number;
};

const WAITING = ['waiting', 'prioritized'] as const;

/** Ids of each state per call. One call suffices except after a long outage. */
const IDS_PER_CALL = 10_000;

/** Reads the ids of a queue's unfinished jobs, without their data. */
export async function readUnfinished(queue: Queue): Promise<UnfinishedJobs> {
  const { first, all } = await listUnfinished(queue);
  const waiting = await list(queue, WAITING);
  const unfinished: UnfinishedJobs = { oldest: Number.MAX_SAFE_INTEGER, most: toNone(), least: toNone(), unknown: 0 };
  for (const id of all) {
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

/** Lists what the ids of a queue's unfinished jobs say. */
export async function listJobs(queue: Queue): Promise<JobSummary[]> {
  const { all } = await listUnfinished(queue);
  return [...all].flatMap((id) => parseJobId(id) ?? []);
}

/** The ids of a queue's unfinished jobs. Lists them twice: a job may return to a state that was already read. */
async function listUnfinished(queue: Queue): Promise<{ first: Set<string>; all: Set<string> }> {
  const first = await list(queue, UNFINISHED);
  const second = await list(queue, UNFINISHED);
  return { first, all: new Set([...first, ...second]) };
}

const toNone = (): ShardBacklog => ({ entries: 0, ofProjects: new Map() });

function add(backlog: ShardBacklog, { entries, ofProjects }: JobSummary): void {
  backlog.entries += entries;
  for (const [projectId, count] of ofProjects) {
    backlog.ofProjects.set(projectId, (backlog.ofProjects.get(projectId) ?? 0) + count);
  }
}

/**
 * Lists the ids of the jobs in these states, newest first: BullMQ takes jobs from the other end, so no id is missed
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
/** Large, so that there are few priorities: entries of different priorities cannot share a job. */
const STEP = 16;
/**
 * The BullMQ priority of a job whose projects have this many entries waiting in the shard. 0, which BullMQ takes
 * first, up to `short` entries; plus 1 for each factor of 16. Jobs of a project may overtake each other, because
 * entries merge in any order.
 */
export function toPriority(backlog: number, short = SHORT_BACKLOG): number {
  return backlog <= short ? 0 : Math.ceil(Math.log(backlog / short) / Math.log(STEP));
}

/** The range of `ShortBacklog`: 48 to 384. With twice the maximum, the limit moves to the next priority. */
export const MAX_SHORT_BACKLOG = 384;
export const MIN_SHORT_BACKLOG = (2 * MAX_SHORT_BACKLOG) / STEP;

/** All priorities that `toPriority` returns, except 0. */
export const PRIORITIES = Array.from(
  { length: toPriority(Number.MAX_SAFE_INTEGER, MIN_SHORT_BACKLOG) },
  (_, i) => i + 1,
);

/** The weight of the newest backlog in the moving averages. */
const NEWEST_WEIGHT = 1 / 128;
/** Of logarithms to base 2: the standard deviation is a factor of 2. */
const MAX_VARIANCE = 1;

/**
 * The longest backlog with priority 0 in a shard: 128 entries while the backlogs of the sending projects differ. If
 * most are alike, within about a factor of 2, the limit moves between 48 and 384, so that these backlogs stay within
 * one priority and share jobs. A fixed limit would separate equal projects whenever their backlogs pass it. The limit
 * moves only if the typical backlog comes within a factor of 2 of the limit of a priority.
 */
export class ShortBacklog {
  /** Mean and variance of the logarithms to base 2, as exponentially weighted moving averages. */
  #mean = 0;
  #variance = 0;
  #longest = SHORT_BACKLOG;

  get longest(): number {
    return this.#longest;
  }

  /** Takes the backlog of a project that has just sent an entry into account. */
  note(backlog: number): void {
    const difference = Math.log2(Math.max(backlog, 1)) - this.#mean;
    this.#mean += NEWEST_WEIGHT * difference;
    this.#variance = (1 - NEWEST_WEIGHT) * (this.#variance + NEWEST_WEIGHT * difference ** 2);
    this.#longest = this.#variance > MAX_VARIANCE ? SHORT_BACKLOG : move(this.#longest, 2 ** this.#mean);
  }
}

/**
 * Moves the limit so that the typical backlog is in the middle of a priority, unless it is far from both limits of its
 * priority.
 */
function move(limit: number, typical: number): number {
  const upper = limit * STEP ** toPriority(typical, limit);
  if (typical <= upper / 2 && typical >= (2 * upper) / STEP) return limit;
  let moved = Math.max(typical * Math.sqrt(STEP), SHORT_BACKLOG);
  while (moved >= STEP * MIN_SHORT_BACKLOG) moved /= STEP;
  return Math.min(moved, MAX_SHORT_BACKLOG);
}
