import { toRefusedEntry } from '@opm/contract';
import {
  backlogOf,
  findPartnerProblems,
  type PartnerActivity,
  type Problem,
  readPartnerActivity,
  readQueueStatus,
  readStoreStatus,
  toP99Ms,
  toStatus,
} from '@opm/operations';
import { type EntryQueue, shardOf } from '@opm/queue';
import type { DeadLetterFilter, MinuteActivity, ProjectActivity, Store } from '@opm/store';
import { LRUCache } from 'lru-cache';

/** Pages that are open at the same time share what they read for this long. */
const SHARED_MS = 2_000;
/**
 * With thousands of active partners, reading their activity takes PostgreSQL half a second. So pages share the result
 * for 50 times as long as the read took, up to 30 s. If it took longer than `SLOW_MS`, pages do not wait for the next
 * read: they show the last result.
 */
const SLOW_MS = 100;
const ACTIVITY_SHARE = 50;
const MAX_SHARED_MS = 30_000;
const MAX_SHARED = 100;
/** The period that charts show. */
export const CHART_MS = 3 * 3_600_000;
export const MINUTE_MS = 60_000;
/** A report may be committed up to this long after its minute. */
const SETTLED_MS = 60_000;
const FILTERED_LETTERS = 100;
/** Groups of dead letters that a page shows. */
export const MAX_GROUPS = 100;

export type Reads = ReturnType<typeof createReads>;

/**
 * The worst of a minute: p99 to the acknowledgement and to the row, the waiting entries, and the age of the oldest one.
 * Undefined if no process had anything to report, or if PostgreSQL or the queue did not answer.
 */
export type MinuteHealth = { minute: Date } & Partial<
  Record<'ingressP99Ms' | 'workerP99Ms' | 'waiting' | 'oldestSeconds', number>
>;

/** The first minute of the charts. The last one is the last complete minute. */
const toChartStart = (now: Date): number => toMinute(now) - CHART_MS;

const toMinute = (now: Date): number => Math.floor(now.getTime() / MINUTE_MS) * MINUTE_MS;

/** What the pages read. Every method rejects with StoreError if PostgreSQL does not answer. */
export function createReads({ store, queue, shards }: { store: Store; queue: EntryQueue; shards: number }) {
  const shared = new LRUCache<string, object, () => Promise<object>>({
    max: MAX_SHARED,
    ttl: SHARED_MS,
    fetchMethod: (_key, _stale, { context: read }) => read(),
  });
  /** Counts the changes. A read after a change does not share the result of an earlier read, even of one in flight. */
  let changes = 0;
  /** Concurrent and soon repeated reads of the same thing share one result. */
  const share = <T extends object>(key: string, read: () => Promise<T>) =>
    shared.forceFetch(`${changes} ${key}`, { context: read }) as Promise<T>;

  let activityMs = Number.POSITIVE_INFINITY;
  const activity = new LRUCache<'', PartnerActivity>({
    max: 1,
    ttl: SHARED_MS,
    async fetchMethod(_key, _stale, { options }) {
      const since = performance.now();
      const read = await readPartnerActivity(store);
      activityMs = performance.now() - since;
      options.ttl = Math.min(Math.max(SHARED_MS, ACTIVITY_SHARE * activityMs), MAX_SHARED_MS);
      return read;
    },
  });
  /** Changes by operators do not affect the activity, so it may be older than the last change. */
  const readActivity = () => activity.forceFetch('', { allowStale: activityMs > SLOW_MS });

  /** The minutes of all projects, oldest first. Past ones do not change, so each is read once. */
  let known: MinuteActivity[] = [];
  async function readAllMinutes() {
    const now = await store.now();
    const since = toChartStart(now);
    const from = Math.max(since, (known.at(-1)?.minute.getTime() ?? 0) - SETTLED_MS);
    const fresh = await store.activity.minutes(new Date(from));
    const kept = known.filter(({ minute }) => minute.getTime() >= since && minute < (fresh[0]?.minute ?? now));
    known = [...kept, ...fresh];
    return { now, minutes: known };
  }

  /** Kept in memory only, by minute. Begins when this process starts. */
  const health = new Map<number, MinuteHealth>();
  async function noteHealth(): Promise<void> {
    const [now, processes, ofQueue] = await Promise.all([
      store.now().catch(() => new Date()), // while PostgreSQL is away, the backlog grows
      store.activity.processes().catch(() => []),
      Promise.all([queue.load(), queue.readBacklog()]).catch(() => undefined),
    ]);
    const p99Ms = toP99Ms(processes);
    const seen: MinuteHealth = {
      minute: new Date(toMinute(now)),
      ingressP99Ms: p99Ms.ingress,
      workerP99Ms: p99Ms.worker,
      waiting: ofQueue?.[0].entries,
      oldestSeconds: ofQueue && ofQueue[1].oldestMs / 1_000,
    };
    const known = health.get(seen.minute.getTime());
    health.set(seen.minute.getTime(), known ? toWorse(known, seen) : seen);
    for (const minute of health.keys()) if (minute < toChartStart(now)) health.delete(minute);
  }

  async function readDeadLetters(filter: DeadLetterFilter, beforeId: string | undefined) {
    const [groups, letters] = await Promise.all([
      store.deadLetters.count(filter),
      store.deadLetters.list(filter, { limit: FILTERED_LETTERS, beforeId }),
    ]);
    const shown = [...groups.slice(0, MAX_GROUPS), ...letters].flatMap(({ projectId }) => projectId ?? []);
    const nameOf = await store.projects.names([...new Set(shown)]);
    return { groups, letters, nameOf, isFull: letters.length === FILTERED_LETTERS };
  }

  const allMinutes = () => share('minutes', readAllMinutes);

  const readBacklogs = () => queue.readProjectBacklogs().catch(() => undefined);

  const storeStatus = () => share('store', () => readStoreStatus(store, readActivity));

  /**
   * All projects, with their problems and the counts of those that were active within the last hour. `lastSeen`: the
   * last use of a key, or the minute of the last counts of this hour if no use is known. `backlog`: undefined if the
   * queue did not answer.
   */
  const partners = () =>
    share('partners', async () => {
      const [known, backlogs, usedAt] = await Promise.all([storeStatus(), readBacklogs(), store.apiKeys.lastUses()]);
      const byId = new Map(known.lastHour.map((stats): [number, ProjectActivity] => [stats.projectId, stats]));
      const problems = new Map<number | undefined, Problem[]>();
      for (const problem of findPartnerProblems(known)) {
        problems.set(problem.projectId, [...(problems.get(problem.projectId) ?? []), problem]);
      }
      return known.projects.map((project) => {
        const stats = byId.get(project.projectId);
        const lastSeen = usedAt.get(project.projectId) ?? stats?.lastSeen;
        const backlog = backlogOf(backlogs, project.projectId);
        return { ...project, stats, backlog, lastSeen, problems: problems.get(project.projectId) ?? [] };
      });
    });

  return {
    status: () =>
      share('status', async () => {
        const [ofStore, ofQueue] = await Promise.all([
          storeStatus().catch((error: Error) => error),
          readQueueStatus(queue).catch((error: Error) => (error.cause as Error | undefined) ?? error),
        ]);
        return toStatus(ofStore, ofQueue);
      }),

    allMinutes,
    health: () => [...health.values()],

    minutesOf: (projectId: number) =>
      share(`minutes ${projectId}`, async () => {
        const now = await store.now();
        return { now, minutes: await store.activity.minutes(new Date(toChartStart(now)), projectId) };
      }),

    partners,

    /**
     * A project of `partners`, even if it was created after they were read. `p99Ms`: see `toP99Ms`. `activePartners`:
     * their number in the last hour.
     */
    async partner(projectId: number) {
      const find = async () => (await partners()).find((partner) => partner.projectId === projectId);
      let found = await find();
      if (!found && (await store.projects.names([projectId])).has(projectId)) {
        changes++;
        found = await find();
      }
      const { processes, lastHour } = await storeStatus();
      return found && { ...found, p99Ms: toP99Ms(processes, projectId), activePartners: lastHour.length };
    },

    keys: (projectId: number) => share(`keys ${projectId}`, () => store.apiKeys.list(projectId)),
    findProject: store.projects.find,
    projectNames: store.projects.names,

    /** The row of a customer, and the claim of its newest entry that is not stored yet; undefined if there is none. */
    async customer(projectId: number, customerId: string) {
      // Claims first: an entry without a claim is already in its row.
      const shard = shardOf(projectId, customerId, shards);
      const claims = await queue.readClaims(shard, projectId, [{ customerId }]).catch((error: Error) => error);
      const [history, letters] = await Promise.all([
        store.customers.findHistory(projectId, customerId),
        store.deadLetters.list({ projectId, customerId }, { limit: FILTERED_LETTERS }),
      ]);
      return { history, letters, claim: claims instanceof Error ? claims : claims[0] };
    },

    /** Dead letters by project and SQLSTATE, and the newest ones; with `beforeId`, older ones. */
    deadLetters: (filter: DeadLetterFilter, beforeId?: string) =>
      share(`dead letters ${JSON.stringify([filter, beforeId])}`, () => readDeadLetters(filter, beforeId)),

    /** A dead letter, the name of its partner, and what that partner sees of it. */
    async deadLetter(deadLetterId: string) {
      const letter = await store.deadLetters.find(deadLetterId);
      if (!letter) return undefined;
      const { projectId, customerId, version } = letter;
      const nameOf = await store.projects.names(projectId === null ? [] : [projectId]);
      if (projectId === null || customerId === null || version === null) return { letter, nameOf, seen: undefined };
      const asked = { customerId, version: Number(version) };
      const [[refused] = []] = await store.deadLetters.findRefused(projectId, [asked]);
      return { letter, nameOf, seen: refused && toRefusedEntry(refused) };
    },

    audit: store.audit.list,
    operators: store.operators.list,
    /**
     * Call it every five seconds. It records what `health` returns, and repeats slow reads that are too old for pages.
     */
    async refresh(): Promise<void> {
      const slow = activityMs > SLOW_MS ? [readActivity(), allMinutes()] : [];
      await Promise.all([noteHealth(), ...slow]);
    },
    /** Makes the next reads see a change. */
    onChanged(): void {
      changes++;
    },
  };
}

/** The larger of each number. */
function toWorse(a: MinuteHealth, b: MinuteHealth): MinuteHealth {
  const larger = (one: number | undefined, other: number | undefined) =>
    one === undefined || other === undefined ? (one ?? other) : Math.max(one, other);
  return {
    minute: a.minute,
    ingressP99Ms: larger(a.ingressP99Ms, b.ingressP99Ms),
    workerP99Ms: larger(a.workerP99Ms, b.workerP99Ms),
    waiting: larger(a.waiting, b.waiting),
    oldestSeconds: larger(a.oldestSeconds, b.oldestSeconds),
  };
}

export type Partner = Awaited<ReturnType<Reads['partners']>>[number];
/** The partner of a page. */
export type ShownPartner = NonNullable<Awaited<ReturnType<Reads['partner']>>>;
