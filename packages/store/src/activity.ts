import { Prisma, type PrismaClient } from './generated/client.js';
import { toStoreError } from './store-error.js';
import { toColumn } from './upsert-customers.js';

/**
 * What is counted per project: requests by the status of their answer, and entries by what became of them. An entry
 * that is answered from the record of its idempotency key is not counted again. `refusedInvalid`: 4xx other than 404,
 * 405 and 429. `refusedLimited`: 429. `refusedUnavailable`: 5xx.
 */
export const COUNTERS = [
  ...(['answered2xx', 'answered4xx', 'answered429', 'answered5xx'] as const),
  ...(['created', 'updated', 'erased'] as const),
  ...(['refusedInvalid', 'refusedLimited', 'refusedUnavailable'] as const),
  ...(['persisted', 'deadLetters'] as const),
];

export type Counts = Record<(typeof COUNTERS)[number], number>;

export const toNoCounts = (): Counts => Object.fromEntries(COUNTERS.map((counter) => [counter, 0])) as Counts;

/** Stands for all projects that a process does not count one by one, and for jobs that cannot be read. */
export const OTHER_PROJECTS = 0;

/** Latencies in ms of the last seconds: of an ingress to the acknowledgement, of a worker to the row. */
export type Latency = { p50Ms: number; p99Ms: number };

/** What a process reports about itself. `busiest`: latencies of its busiest projects, by project id. */
export type ProcessState = Partial<Latency> & {
  isPaused?: boolean;
  busiest?: Record<number, Latency>;
};

/** A report of an ingress or a worker. `report` counts its reports from 1. */
export type Report = {
  id: string;
  name: string;
  host: string;
  pid: number;
  version: string;
  uptimeSeconds: number;
  report: number;
  state: ProcessState;
  counts: ReadonlyMap<number, Counts>;
  /** Ids of the API keys that were used. */
  usedKeys: number[];
};

/** `silentSeconds`: time since the last report. Processes report every five seconds. */
export type SeenProcess = Pick<Report, 'id' | 'name' | 'host' | 'pid' | 'version' | 'uptimeSeconds' | 'state'> & {
  silentSeconds: number;
};

/**
 * A project with counts. `lastSeen`: the minute of its last counts, or their day if that is longer ago. `…Since` and
 * `…Until`: the minutes of the first and last refused entries and dead letters. The rates are those since the beginning
 * of the minute before this one.
 */
export type ProjectActivity = Counts & {
  projectId: number;
  name: string | null;
  lastSeen: Date;
  acceptedPerSecond: number;
  refusedPerSecond: number;
  persistedPerSecond: number;
} & { [Time in `${(typeof TIMED_COUNTERS)[number]}${'Since' | 'Until'}`]: Date | null };

/** Entries of one minute, by what became of them. */
export type MinuteActivity = { minute: Date } & Record<'accepted' | 'refused' | 'persisted' | 'deadLetters', number>;

/** A project that sent entries in at least half of the minutes of an hour, and none since `lastEntry`. */
export type SilentProject = { projectId: number; name: string; lastEntry: Date };

export type Activity = ReturnType<typeof createActivity>;

const COLUMNS = COUNTERS.map(toColumn);
const forEachColumn = (toPart: (column: string) => string) => Prisma.raw(COLUMNS.map(toPart).join(', '));
const COLUMN_LIST = forEachColumn((column) => column);
const ADD_TO_STORED = forEachColumn((column) => `${column} = stored.${column} + excluded.${column}`);
const sumsOf = (counters: readonly (keyof Counts)[]) =>
  Prisma.raw(counters.map((counter) => `sum(${toColumn(counter)})::float8 AS "${counter}"`).join(', '));
const ACCEPTED = Prisma.raw('created + updated + erased');
const REFUSED = Prisma.raw('refused_invalid + refused_limited + refused_unavailable');
/** Counters whose first and last minutes are read. */
const TIMED_COUNTERS = ['refusedInvalid', 'refusedLimited', 'refusedUnavailable', 'deadLetters'] as const;
const FIRST_AND_LAST_MINUTES = Prisma.raw(
  TIMED_COUNTERS.flatMap((counter) => [
    `min(at) FILTER (WHERE ${toColumn(counter)} > 0) AS "${counter}Since"`,
    `max(at) FILTER (WHERE ${toColumn(counter)} > 0) AS "${counter}Until"`,
  ]).join(', '),
);
const USAGE_COUNTERS = [
  ...(['created', 'updated', 'erased', 'deadLetters'] as const),
  ...(['refusedInvalid', 'refusedLimited', 'refusedUnavailable'] as const),
];
const USAGE_COLUMNS = Prisma.raw(USAGE_COUNTERS.map(toColumn).join(', '));

/** Counts of a day (UTC), such as `2026-11-30`. */
export type CountedDay = { day: string } & Pick<Counts, (typeof USAGE_COUNTERS)[number]>;

/** The entries per second that `count` counts, since the minute before this one. The subquery is evaluated once. */
const perSecond = (count: Prisma.Sql, property: string) =>
  Prisma.sql`
    coalesce(sum(${count}) FILTER (WHERE at >= (SELECT date_trunc('minute', now() - interval '1 min'))), 0)::float8
      / extract(epoch FROM now() - date_trunc('minute', now() - interval '1 min'))::float8 AS ${Prisma.raw(`"${property}"`)}`;

/** A project's counts by column, without zeros. There may be 10,000 projects in a report. */
function toRow([projectId, counts]: [number, Counts]): Record<string, number> {
  const row: Record<string, number> = { project_id: projectId };
  for (const [i, counter] of COUNTERS.entries()) if (counts[counter] > 0) row[COLUMNS[i] as string] = counts[counter];
  return row;
}

const SILENT_MINUTES = 15;
const KEPT_DAYS = 400;
/** The first minute that is not yet part of its day. */
const KEPT_FROM = Prisma.raw(`date_trunc('minute', now() - interval '3 h')`);

/** Counts per project and running processes. All times are PostgreSQL's. */
export function createActivity(prisma: PrismaClient) {
  async function rollUpSome(): Promise<number> {
    const [moved] = await toStoreError(
      () => prisma.$queryRaw<{ minutes: number }[]>`
        WITH old AS (
          DELETE FROM project_minutes
          WHERE minute < ${KEPT_FROM} AND minute < (SELECT min(minute) FROM project_minutes) + interval '10 min'
          RETURNING *
        ), added AS (
          INSERT INTO project_days AS stored (day, project_id, ${COLUMN_LIST})
          SELECT (minute AT TIME ZONE 'UTC')::date AS day, project_id, ${forEachColumn((column) => `sum(${column})`)}
          FROM old GROUP BY day, project_id ORDER BY day, project_id
          ON CONFLICT (day, project_id) DO UPDATE SET ${ADD_TO_STORED}
        ), deleted_days AS (
          DELETE FROM project_days WHERE day < (now() AT TIME ZONE 'UTC')::date - ${KEPT_DAYS}::int
        ), deleted_processes AS (
          DELETE FROM processes WHERE seen_at < now() - interval '1 day'
        )
        SELECT count(*)::int AS minutes FROM old`,
    );
    return moved?.minutes ?? 0;
  }

  return {
    /**
     * Adds a process's counts, with one statement. A report with a number that was counted before changes nothing, so
     * a report can be sent again if its answer was lost.
     * @returns the names of these projects, by project id
     */
    async report({ counts, usedKeys, ...process }: Report, namesOf: number[]): Promise<Map<number, string>> {
      const { id, name, host, pid, version, uptimeSeconds, report, state } = process;
      const rows = [...counts].map(toRow);
      const names = await toStoreError(
        () => prisma.$queryRaw<{ id: number; name: string }[]>`
          WITH reported AS (
            INSERT INTO processes AS process (id, name, host, pid, version, started_at, report, state)
            VALUES (
              ${id}::uuid, ${name}, ${host}, ${pid}::int, ${version}, now() - ${uptimeSeconds}::float8 * interval '1 s',
              ${report}::int, ${JSON.stringify(state)}::jsonb
            )
            ON CONFLICT (id) DO UPDATE SET seen_at = now(), report = excluded.report, state = excluded.state
            WHERE process.report < excluded.report
            RETURNING id
          ), predecessor AS ( -- killed, or restarted while PostgreSQL was
            DELETE FROM processes
            WHERE ${report}::int = 1 AND name = ${name} AND host = ${host} AND pid = ${pid}::int AND id <> ${id}::uuid
          ), counted AS (
            INSERT INTO project_minutes AS stored (minute, project_id, ${COLUMN_LIST})
            SELECT date_trunc('minute', now()), project_id, ${forEachColumn((column) => `coalesce(${column}, 0)`)}
            FROM reported, jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
              AS sent (project_id int, ${forEachColumn((column) => `${column} int`)})
            ORDER BY project_id
            ON CONFLICT (minute, project_id) DO UPDATE SET ${ADD_TO_STORED}
          ), used AS (
            INSERT INTO key_uses (key_id, used_at) SELECT id, now() FROM unnest(${usedKeys}::int[]) AS id ORDER BY id
            ON CONFLICT (key_id) DO UPDATE SET used_at = now()
          )
          SELECT id, name FROM projects WHERE id = ANY(${namesOf}::int[])`,
      );
      return new Map(names.map((project) => [project.id, project.name]));
    },

    /** Removes a process that ends. */
    async end(id: string): Promise<void> {
      await toStoreError(() => prisma.$executeRaw`DELETE FROM processes WHERE id = ${id}::uuid`);
    },

    /**
     * Adds the minutes of more than three hours ago to their days, and deletes days of more than 400 days ago and
     * processes that have not reported for a day. A statement moves ten minutes, so that it ends in time.
     * @returns the number of minutes of projects that were moved
     */
    async rollUp(): Promise<number> {
      let moved = 0;
      for (let some = await rollUpSome(); some > 0; some = await rollUpSome()) moved += some;
      return moved;
    },

    /** Lists the processes that have not ended, also those that were killed within the last day. */
    processes(): Promise<SeenProcess[]> {
      return toStoreError(
        () => prisma.$queryRaw<SeenProcess[]>`
          SELECT id::text, name, host, pid, version, state,
            extract(epoch FROM now() - started_at)::float8 AS "uptimeSeconds",
            extract(epoch FROM now() - seen_at)::float8 AS "silentSeconds"
          FROM processes ORDER BY name, host, started_at`,
      );
    },

    /**
     * The projects that were active since then, the busiest first. Counts from more than three hours ago are per whole
     * day (UTC).
     */
    projects(since: Date): Promise<ProjectActivity[]> {
      return toStoreError(
        () => prisma.$queryRaw<ProjectActivity[]>`
          WITH counts AS (
            SELECT minute AS at, project_id, ${COLUMN_LIST} FROM project_minutes WHERE minute >= ${since}
            UNION ALL
            SELECT day AT TIME ZONE 'UTC', project_id, ${COLUMN_LIST} FROM project_days
            WHERE day >= (${since}::timestamptz AT TIME ZONE 'UTC')::date AND ${since} < ${KEPT_FROM}
          ), active AS (
            SELECT project_id AS "projectId", max(at) AS "lastSeen", ${FIRST_AND_LAST_MINUTES}, ${sumsOf(COUNTERS)},
              ${perSecond(ACCEPTED, 'acceptedPerSecond')},
              ${perSecond(REFUSED, 'refusedPerSecond')},
              ${perSecond(Prisma.raw('persisted'), 'persistedPerSecond')}
            FROM counts GROUP BY project_id
          )
          SELECT active.*, name FROM active LEFT JOIN projects ON projects.id = "projectId"
          ORDER BY answered2xx + answered4xx + answered429 + answered5xx DESC, "projectId"`,
      );
    },

    /**
     * The minutes since then with counts, at most three hours ago, of all projects or of one. Later reports do not
     * change past minutes.
     */
    minutes(since: Date, projectId?: number): Promise<MinuteActivity[]> {
      // A join with the minutes reads one row per minute. A condition on both columns would read all projects' rows.
      const counts =
        projectId === undefined
          ? Prisma.sql`project_minutes WHERE minute >= ${since}`
          : Prisma.sql`
              generate_series(date_trunc('minute', ${since}::timestamptz), now(), interval '1 min') AS minutes (at)
              JOIN project_minutes ON minute = at AND project_id = ${projectId}`;
      return toStoreError(
        () => prisma.$queryRaw<MinuteActivity[]>`
          SELECT minute, sum(${ACCEPTED})::float8 AS accepted,
            sum(${REFUSED})::float8 AS refused,
            sum(persisted)::float8 AS persisted, sum(dead_letters)::float8 AS "deadLetters"
          FROM ${counts} GROUP BY minute ORDER BY minute`,
      );
    },

    /**
     * Counts the project's entries per day (UTC), of the days that have counts, which are kept for 400 days. Counts are
     * as late as the reports of ingresses and workers.
     */
    usage(projectId: number): Promise<CountedDay[]> {
      // Joins with days and minutes can use the primary keys. A condition on a range would read all projects' rows.
      return toStoreError(
        () => prisma.$queryRaw<CountedDay[]>`
          WITH kept AS (
            SELECT coalesce(min(minute), now()) AS first, coalesce(max(minute), now()) AS last FROM project_minutes
          ), counted AS (
            SELECT day, ${USAGE_COLUMNS} FROM generate_series(0, ${KEPT_DAYS}::int) AS days (ago)
            JOIN project_days ON day = (now() AT TIME ZONE 'UTC')::date - ago AND project_id = ${projectId}
            UNION ALL
            SELECT (minute AT TIME ZONE 'UTC')::date, ${USAGE_COLUMNS}
            FROM kept, generate_series(date_trunc('minute', first), last, '1 min') AS minutes (at)
            JOIN project_minutes ON minute = at AND project_id = ${projectId}
          )
          SELECT day::text, ${sumsOf(USAGE_COUNTERS)} FROM counted GROUP BY day`,
      );
    },

    /**
     * The projects that were steadily active within the last three hours, have sent nothing for a quarter of one, and
     * are not paused.
     */
    silentProjects(): Promise<SilentProject[]> {
      return toStoreError(
        () => prisma.$queryRaw<SilentProject[]>`
          WITH silent AS (
            SELECT project_id, max(minute) AS last FROM project_minutes
            WHERE ${ACCEPTED} > 0 AND minute >= ${KEPT_FROM}
            GROUP BY project_id HAVING max(minute) < now() - ${SILENT_MINUTES} * interval '1 min'
          )
          SELECT project_id AS "projectId", name, last AS "lastEntry"
          FROM silent JOIN projects ON projects.id = project_id
          WHERE paused_at IS NULL AND 30 <= (
            SELECT count(*) FROM generate_series(last - interval '59 min', last, interval '1 min') AS minutes (at)
            JOIN project_minutes AS sent ON sent.minute = at AND sent.project_id = silent.project_id
            WHERE ${ACCEPTED} > 0
          )
          ORDER BY last, project_id`,
      );
    },
  };
}
