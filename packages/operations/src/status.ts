import { toDate } from '@opm/core';
import type { EntryQueue, ProjectBacklog } from '@opm/queue';
import type { ListedProject, ProjectActivity, SeenProcess, Store } from '@opm/store';
import {
  findProblems,
  type PartnerActivity,
  type QueueStatus,
  SILENT_SECONDS,
  type StoreStatus,
  toCount,
} from './find-problems.js';

export {
  acceptedOf,
  findPartnerProblems,
  type PartnerActivity,
  type Problem,
  type QueueStatus,
  SILENT_SECONDS,
  type StoreStatus,
  toCount,
  toDuration,
  toNumber,
} from './find-problems.js';

const HOUR_MS = 3_600_000;

/** What is wrong and how busy everything is. What could not be read is undefined or empty. */
export type Status = ReturnType<typeof toStatus>;

/** Counts of the projects. With thousands of active ones, this read takes a second. @throws StoreError */
export async function readPartnerActivity({ now, activity }: Store): Promise<PartnerActivity> {
  const since = new Date((await now()).getTime() - HOUR_MS);
  const [lastHour, silentProjects] = await Promise.all([activity.projects(since), activity.silentProjects()]);
  return { lastHour, silentProjects };
}

/** Reads what PostgreSQL knows of the running system. @throws StoreError */
export async function readStoreStatus(store: Store, readActivity = readPartnerActivity): Promise<StoreStatus> {
  const [now, processes, projects, letters, activity] = await Promise.all([
    store.now(),
    store.activity.processes(),
    store.projects.list(),
    store.deadLetters.count({}),
    readActivity(store),
  ]);
  return { now, processes, projects, deadLetters: countAll(letters), ...activity };
}

/** The sum of grouped counts. */
export const countAll = (groups: { count: number }[]): number => groups.reduce((sum, { count }) => sum + count, 0);

/** Whether dead letters can be selected by this text: a SQLSTATE, or its first two characters, the class. */
export const isSqlState = (text: string): boolean => /^[0-9A-Z]{2}(?:[0-9A-Z]{3})?$/i.test(text);

/** Dead letters per second that a replay queues, unless its caller chooses another rate. */
export const REPLAY_RATE = 200;

/** Reads what the queue's store knows. @throws Fault QUEUE_UNAVAILABLE */
export async function readQueueStatus(queue: EntryQueue): Promise<QueueStatus> {
  const [{ entries, memory }, backlog, idle, paused, check] = await Promise.all([
    queue.load(),
    queue.readBacklog(),
    queue.findIdle(),
    queue.findPaused(),
    queue.check().catch(({ message }: Error) => message),
  ]);
  const { waiting, prioritized, active, delayed } = backlog.jobs;
  const jobs = waiting + prioritized + active + delayed;
  return { entries, jobs, oldestSeconds: backlog.oldestMs / 1_000, memory, idle, paused, check: check ?? undefined };
}

/**
 * After a restore of PostgreSQL: when the acknowledged entries that may be missing were sent. Entries that wait in the
 * queue need not be sent again. `from`: undefined if no worker noted it. `isEndKnown`: false if the queue's store does
 * not know its newest version, or was restored too; then `to` is now, because nothing was acknowledged after the
 * ingresses ended. `isEmpty`: nothing is missing.
 */
export type ResendWindow = {
  from: Date | undefined;
  to: Date;
  isEndKnown: boolean;
  isEmpty: boolean;
  waiting: { entries: number; oldest: Date | undefined };
};

/** Margin for partners' clocks, and for the time from sending to admission, in microseconds. */
const CLOCKS_US = 60_000_000;

/**
 * Call it before workers run again, because they note what is finished from then on.
 * @param isQueueRestored whether the queue is in PostgreSQL @throws StoreError; Fault QUEUE_UNAVAILABLE
 */
export async function readResendWindow(
  store: Store,
  queue: EntryQueue,
  { shards, isQueueRestored }: { shards: number; isQueueRestored: boolean },
): Promise<ResendWindow> {
  const ofShards = Array.from({ length: shards }, (_, shard) => shard);
  const [{ newestAtLeast, finishedBefore }, now, newest, jobs] = await Promise.all([
    store.mark.read(),
    store.now(),
    Promise.all(ofShards.map(queue.readVersion)),
    Promise.all(ofShards.map(queue.listJobs)).then((lists) => lists.flat()),
  ]);
  const last = newest.reduce((a, b) => (a === undefined || b === undefined ? undefined : Math.max(a, b)));
  // An emptied Redis has no version. A Redis that came back with older data has a version below the newest row's.
  const end = isQueueRestored || last === undefined || last < newestAtLeast ? undefined : last;
  const oldest = jobs.reduce((least, { versions: [first] }) => Math.min(least, first), Number.POSITIVE_INFINITY);
  return {
    from: finishedBefore > 0 ? toDate(finishedBefore - CLOCKS_US) : undefined,
    to: end === undefined ? now : toDate(end + CLOCKS_US),
    isEndKnown: end !== undefined,
    isEmpty: end !== undefined && end < finishedBefore,
    waiting: {
      entries: jobs.reduce((sum, { entries }) => sum + entries, 0),
      oldest: jobs.length > 0 ? toDate(oldest) : undefined,
    },
  };
}

/** @param store an Error if PostgreSQL could not be read @param queue an Error if the queue could not be read */
export function toStatus(store: StoreStatus | Error, queue: QueueStatus | Error) {
  const known = store instanceof Error ? undefined : store;
  return {
    problems: findProblems(store, queue),
    processes: known?.processes ?? [],
    rates: known && toRates(known),
    queue: queue instanceof Error ? undefined : queue,
    deadLetters: known?.deadLetters,
    paused: known?.projects.flatMap(({ projectId, name, pausedAt }) => (pausedAt ? { projectId, name } : [])) ?? [],
  };
}

/** Such as `41 entries in 3 jobs`. An entry is counted before its job is stored, and until after it is removed. */
export function toWaiting({ entries, jobs }: Pick<QueueStatus, 'entries' | 'jobs'>): string {
  if (entries > 0 && jobs === 0) return `${toCount(entries, 'entry')}, about to enter a job or just stored`;
  return `${toCount(entries, 'entry')} in ${toCount(jobs, 'job')}`;
}

/** Such as `2 %`; undefined if the memory of the queue's store has no limit of its own, as in PostgreSQL. */
export const toMemory = ({ memory }: Pick<QueueStatus, 'memory'>): string | undefined =>
  memory > 0 ? `${Math.round(100 * memory)} %` : undefined;

/** Entries per second of all projects. */
function toRates({ lastHour }: StoreStatus) {
  const sum = (rate: 'acceptedPerSecond' | 'refusedPerSecond' | 'persistedPerSecond') =>
    lastHour.reduce((total, project) => total + project[rate], 0);
  return {
    accepted: sum('acceptedPerSecond'),
    refused: sum('refusedPerSecond'),
    persisted: sum('persistedPerSecond'),
  };
}

/**
 * The largest p99 of the last seconds among the running processes of each kind: `ingress` to the acknowledgement,
 * `worker` to the row. A project has one only if it is among the busiest of a process.
 */
export function toP99Ms(processes: SeenProcess[], projectId?: number): Record<string, number> {
  const largest: Record<string, number> = {};
  for (const { name, state, silentSeconds } of processes) {
    const { p99Ms } = (projectId === undefined ? state : state.busiest?.[projectId]) ?? {};
    if (p99Ms === undefined || silentSeconds >= SILENT_SECONDS) continue;
    largest[name] = Math.max(p99Ms, largest[name] ?? 0);
  }
  return largest;
}

/**
 * `backlog` is sampled, see `ProjectBacklog`; undefined if the queue did not answer. `limit`: entries per second.
 * `p99Ms`: see `toP99Ms`.
 */
export type ProjectStats = ProjectActivity & {
  backlog: ProjectBacklog | undefined;
  limit: number | null;
  p99Ms: Record<string, number>;
};

/** The projects that were active since then, the busiest first. @throws StoreError */
export async function readProjectStats(
  { activity }: Pick<Store, 'activity'>,
  since: Date,
  { projects, backlogs }: { projects: ListedProject[]; backlogs: Map<number, ProjectBacklog> | undefined },
): Promise<ProjectStats[]> {
  const [active, processes] = await Promise.all([activity.projects(since), activity.processes()]);
  const limits = new Map(projects.map(({ projectId, rate }) => [projectId, rate]));
  return active.map((own) => ({
    ...own,
    limit: limits.get(own.projectId) ?? null,
    p99Ms: toP99Ms(processes, own.projectId),
    backlog: backlogOf(backlogs, own.projectId),
  }));
}

/** The project's waiting entries; undefined if the queue did not answer. */
export const backlogOf = (backlogs: Map<number, ProjectBacklog> | undefined, projectId: number) =>
  backlogs && (backlogs.get(projectId) ?? { entries: 0, oldestMs: 0 });
