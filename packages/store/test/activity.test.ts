import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createTestDatabase, startProxy, type TcpProxy, type TestDatabase, waitFor } from '@opm/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { COUNTERS, type Counts, type ProcessState, type Report, toNoCounts } from '../src/activity.js';
import { createActivityReporter, createStore, type Outcomes, type Store } from '../src/index.js';

let database: TestDatabase;
let store: Store;
let client: pg.Client;

beforeAll(async () => {
  database = await createTestDatabase();
  store = createStore({ databaseUrl: database.url, applicationName: 'test' });
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await store.close();
  await database.drop();
});

/** Runs a statement on one connection: the properties run thousands, and a new connection takes longer than most. */
const query = async <Row extends pg.QueryResultRow>(statement: string, values: unknown[] = []): Promise<Row[]> =>
  (await client.query<Row>(statement, values)).rows;

beforeEach(() => query('TRUNCATE project_minutes, project_days, processes'));

const AN_HOUR_AGO = new Date(Date.now() - 3_600_000);
const LONG_AGO = new Date(Date.now() - 500 * 86_400_000);

const toId = (process: number) => `00000000-0000-4000-8000-${String(process).padStart(12, '0')}`;

function toReport(process: number, report: number, counts: [projectId: number, counts: Partial<Counts>][]): Report {
  return {
    ...{ id: toId(process), name: 'ingress', host: 'host', pid: process, version: '1.0.0', uptimeSeconds: 90, report },
    state: { p50Ms: 1, p99Ms: 2 },
    usedKeys: [],
    counts: new Map(counts.map(([projectId, own]) => [projectId, { ...toNoCounts(), ...own }])),
  };
}

const toAge = (projectId: number, age: string) =>
  query(`UPDATE project_minutes SET minute = minute - $2::interval WHERE project_id = $1`, [projectId, age]);

describe('counts per project', () => {
  test('each report counts once, however often it is sent and whenever minutes become days', async () => {
    const counts = fc.record(Object.fromEntries(COUNTERS.map((counter) => [counter, fc.nat(1_000_000)])));
    const report = fc.record({
      process: fc.integer({ min: 1, max: 3 }),
      projects: fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 4 }), counts), { selector: ([id]) => id }),
      times: fc.integer({ min: 1, max: 3 }),
      ageMinutes: fc.integer({ min: 0, max: 500 }),
      rollsUp: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(report, { maxLength: 8 }), async (reports) => {
        await query('TRUNCATE project_minutes, project_days, processes');
        const expected = new Map<number, Counts>();
        const numbers = new Map<number, number>();
        for (const { process, projects, times, ageMinutes, rollsUp } of reports) {
          const number = (numbers.get(process) ?? 0) + 1;
          numbers.set(process, number);
          const sent = toReport(process, number, projects as [number, Counts][]);
          for (let i = 0; i < times; i++) await store.activity.report(sent, []);
          for (const [projectId, own] of projects as [number, Counts][]) {
            const sum = expected.get(projectId) ?? toNoCounts();
            for (const counter of COUNTERS) sum[counter] += own[counter];
            expected.set(projectId, sum);
            // Two rows of a project must not get the same minute.
            const isTaken = `SELECT FROM project_minutes WHERE project_id = $1 AND minute < now() - interval '2 min'`;
            if (ageMinutes > 5 && (await query(isTaken, [projectId])).length === 0) {
              await toAge(projectId, `${ageMinutes} min`);
            }
          }
          if (rollsUp) await store.activity.rollUp();
        }
        const stored = await store.activity.projects(LONG_AGO);
        for (const own of stored) {
          expect(Object.fromEntries(COUNTERS.map((counter) => [counter, own[counter]]))).toEqual(
            expected.get(own.projectId),
          );
        }
        expect(stored.map(({ projectId }) => projectId).sort()).toEqual([...expected.keys()].sort());
      }),
      { numRuns: 40 },
    );
  });

  test('minutes of more than three hours ago become days, and days of more than 400 days ago are deleted', async () => {
    await store.activity.report(
      toReport(1, 1, [
        [1, { created: 1 }],
        [2, { created: 2 }],
      ]),
      [],
    );
    await toAge(1, '181 min');
    await toAge(2, '178 min');
    expect(await store.activity.rollUp()).toBe(1);
    expect(await query('SELECT project_id AS id, created FROM project_minutes')).toEqual([{ id: 2, created: 2 }]);
    expect(await query('SELECT project_id AS id, created::int FROM project_days')).toEqual([{ id: 1, created: 1 }]);
    await query('UPDATE project_days SET day = day - 401');
    expect(await store.activity.rollUp()).toBe(0);
    expect(await query('SELECT FROM project_days')).toEqual([]);
  });

  test('the activity since a time has names, rates of the last minute and the begin of a limit', async () => {
    const { projectId } = await store.projects.create('acme');
    await store.activity.report(toReport(1, 1, [[projectId, { answered429: 3, refusedLimited: 3 }]]), []);
    await toAge(projectId, '30 min');
    await store.activity.report(toReport(1, 2, [[projectId, { answered2xx: 600, created: 600 }]]), []);
    await store.activity.report(toReport(1, 3, [[77, { answered4xx: 1, refusedInvalid: 1 }]]), []);
    await toAge(77, '2 h');
    const [busiest, ...others] = await store.activity.projects(AN_HOUR_AGO);
    expect(others).toEqual([]);
    expect(busiest).toMatchObject({ projectId, name: 'acme', created: 600, refusedLimited: 3 });
    expect(busiest?.acceptedPerSecond).toBeGreaterThanOrEqual(5); // in 60 to 120 s
    expect(busiest?.acceptedPerSecond).toBeLessThanOrEqual(10);
    expect(busiest?.refusedPerSecond).toBe(0);
    expect(busiest?.refusedLimitedUntil).toEqual(busiest?.refusedLimitedSince);
    expect(busiest?.refusedUnavailableUntil).toBeNull();
    const sinceLimited = (busiest?.lastSeen.getTime() ?? 0) - (busiest?.refusedLimitedSince?.getTime() ?? 0);
    expect(Math.round(sinceLimited / 60_000)).toBeGreaterThanOrEqual(30);
  });

  test('a project is silent if it sent in half of the minutes of an hour and nothing for a quarter of an hour', async () => {
    const names = ['steady', 'still sending', 'rare'];
    const [steady, sending, rare] = await Promise.all(names.map((name) => store.projects.create(name)));
    const add = (projectId = 0, first = 0, last = 0, step = 1) =>
      query(
        `INSERT INTO project_minutes (minute, project_id, updated)
         SELECT date_trunc('minute', now()) - i * interval '1 min', $1, 1 FROM generate_series($2::int, $3, $4) AS i`,
        [projectId, first, last, step],
      );
    await add(steady?.projectId, 61, 125);
    await add(sending?.projectId, 0, 125);
    await add(rare?.projectId, 61, 179, 10);
    const silent = await store.activity.silentProjects();
    expect(silent.map(({ name }) => name)).toEqual(['steady']);
    const minutes = (Date.now() - (silent[0]?.lastEntry.getTime() ?? 0)) / 60_000;
    expect(Math.abs(minutes - 61.5)).toBeLessThan(1.5);
    await store.projects.setPaused(steady?.projectId ?? 0, true);
    expect(await store.activity.silentProjects()).toEqual([]);
  });
});

test('a process is listed from its first report until it ends, and a killed one for a day', async () => {
  await store.activity.report(toReport(1, 1, []), []);
  await store.activity.report(toReport(2, 1, []), []);
  await query(`UPDATE processes SET seen_at = now() - interval '1 min' WHERE pid = 2`);
  await store.activity.rollUp();
  const [one, two] = await store.activity.processes();
  expect(one).toMatchObject({ pid: 1, name: 'ingress', host: 'host', version: '1.0.0', state: { p99Ms: 2 } });
  expect(one?.uptimeSeconds).toBeGreaterThanOrEqual(90);
  expect(two?.silentSeconds).toBeGreaterThanOrEqual(60);
  await store.activity.end(toId(1));
  await query(`UPDATE processes SET seen_at = now() - interval '25 h' WHERE pid = 2`);
  await store.activity.rollUp();
  expect(await store.activity.processes()).toEqual([]);
});

test('a process that did not end is replaced by the next one with its host and pid', async () => {
  await store.activity.report(toReport(1, 1, []), []);
  await store.activity.report({ ...toReport(2, 1, []), pid: 1 }, []);
  await store.activity.report({ ...toReport(3, 1, []), pid: 1, host: 'other' }, []);
  const processes = await store.activity.processes();
  expect(processes.map(({ id }) => id).sort()).toEqual([2, 3].map(toId).sort());
  for (const { id } of processes) await store.activity.end(id);
  expect(await store.activity.processes()).toEqual([]);
});

describe('a reporter', () => {
  let proxy: TcpProxy;
  let behindProxy: Store;

  beforeAll(async () => {
    proxy = await startProxy(database.url);
    const timeouts = { connectTimeoutMs: 1_000, statementTimeoutMs: 1_000 };
    behindProxy = createStore({ databaseUrl: proxy.url, applicationName: 'test', poolSize: 1, ...timeouts });
  });
  afterAll(async () => {
    await behindProxy.close();
    await proxy.close();
  });

  let reported: Map<string, Outcomes>[];
  let failures: number;
  const startReporter = (activity = behindProxy.activity) => {
    reported = [];
    failures = 0;
    return createActivityReporter({
      ...{ activity, name: 'ingress' },
      onReported: (outcomes) => reported.push(outcomes),
      onFailed: () => failures++,
    });
  };
  const countCreated = async (projectId: number) =>
    (await store.activity.projects(AN_HOUR_AGO)).find((own) => own.projectId === projectId)?.created ?? 0;
  const sumOf = (outcome: string) =>
    reported.flatMap((outcomes) => [...outcomes.values()]).reduce((sum, own) => sum + (own[outcome] ?? 0), 0);

  test.each([
    ['refuses connections', () => proxy.cut(), () => proxy.restore()],
    ['loses its answers', async () => proxy.hold(), async () => proxy.release()],
  ])('keeps counts while PostgreSQL %s, and reports each of them once', async (what, begin, end) => {
    const { projectId } = await store.projects.create(what);
    const reporter = startReporter();
    reporter.of(projectId).created += 1;
    await waitFor(async () => (await countCreated(projectId)) === 1, { description: 'the first report' });
    await begin();
    reporter.of(projectId).created += 10;
    await waitFor(() => failures > 0, { description: 'a failed report' });
    reporter.of(projectId).created += 100;
    await end();
    await waitFor(async () => (await countCreated(projectId)) === 111, { description: 'the kept counts' });
    reporter.of(projectId).created += 1_000;
    await reporter.close();
    expect(await countCreated(projectId)).toBe(1_111);
    expect(await store.activity.processes()).toEqual([]);
    expect(sumOf('created')).toBe(1_111);
  });

  test('counts 10,000 projects one by one, and all others together', async () => {
    const reporter = startReporter(store.activity);
    for (let projectId = 1; projectId <= 10_002; projectId++) reporter.of(projectId).updated += projectId;
    await reporter.close();
    const rows = await query<{ id: number; updated: number }>(
      'SELECT project_id AS id, updated FROM project_minutes ORDER BY id',
    );
    expect(rows).toHaveLength(10_001);
    expect(rows[0]).toEqual({ id: 0, updated: 10_001 + 10_002 });
    expect(rows.at(-1)).toEqual({ id: 10_000, updated: 10_000 });
    expect(Math.max(...reported.map(({ size }) => size))).toBeLessThanOrEqual(21); // the busiest and `other`
    expect(sumOf('updated')).toBe((10_002 * 10_003) / 2);
  });

  test('reports the latencies of all projects together, and one by one of the 20 busiest', async () => {
    const states: ProcessState[] = [];
    const reporter = startReporter({
      ...store.activity,
      report(report, namesOf) {
        states.push(report.state);
        return store.activity.report(report, namesOf);
      },
    });
    const projectIds = Array.from({ length: 30 }, (_, i) => i + 1);
    for (const projectId of projectIds) reporter.of(projectId).created += projectId;
    await waitFor(() => reported.length > 0, { description: 'the first report' }); // from now on they are known
    for (const projectId of projectIds) reporter.onLatency(projectId, 100 * projectId);
    await reporter.close();
    const { busiest, p99Ms } = states.at(-1) ?? {};
    expect(Object.keys(busiest ?? {}).map(Number)).toEqual(projectIds.slice(10));
    expect(Math.abs((busiest?.[30]?.p99Ms ?? 0) - 3_000)).toBeLessThan(60);
    expect(Math.abs((p99Ms ?? 0) - 3_000)).toBeLessThan(60);
  });
});

describe('the usage of a project', () => {
  const toDay = async (daysAgo: number) => {
    const days = await query<{ day: string }>(`SELECT ((now() AT TIME ZONE 'UTC')::date - $1::int)::text AS day`, [
      daysAgo,
    ]);
    return days[0]?.day;
  };

  test('each report counts once on its day (UTC), whenever minutes become days, and other projects do not count', async () => {
    const counts = fc.record({
      created: fc.nat(1_000),
      updated: fc.nat(1_000),
      erased: fc.nat(1_000),
      refusedInvalid: fc.nat(1_000),
      refusedLimited: fc.nat(1_000),
      refusedUnavailable: fc.nat(1_000),
      deadLetters: fc.nat(1_000),
    });
    const step = fc.record({
      projectId: fc.integer({ min: 1, max: 2 }),
      counts,
      ageHours: fc.nat(72),
      rollsUp: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 6 }), async (steps) => {
        await query('TRUNCATE project_minutes, project_days, processes');
        const expected = new Map<string, (typeof steps)[number]['counts']>();
        for (const [i, { projectId, counts: own, ageHours, rollsUp }] of steps.entries()) {
          await store.activity.report(toReport(1, i + 1, [[projectId, own]]), []);
          // Each report has its own minutes, so that no two rows of a project get the same one.
          const [aged] = await query<{ day: string }>(
            `UPDATE project_minutes SET minute = minute - interval '1 h' * $2 - interval '1 min' * $3
             WHERE project_id = $1 AND minute = (SELECT max(minute) FROM project_minutes WHERE project_id = $1)
             RETURNING (minute AT TIME ZONE 'UTC')::date::text AS day`,
            [projectId, ageHours + 1, i * 5],
          );
          const key = `${projectId} ${aged?.day}`;
          const sum = expected.get(key) ?? mapCounts(own, () => 0);
          expected.set(
            key,
            mapCounts(own, (counter) => sum[counter] + own[counter]),
          );
          if (rollsUp) await store.activity.rollUp();
        }
        for (const projectId of [1, 2]) {
          const days = await store.activity.usage(projectId);
          const found = new Map(days.map(({ day, ...own }) => [`${projectId} ${day}`, own]));
          expect(found).toEqual(new Map([...expected].filter(([key]) => key.startsWith(`${projectId} `))));
        }
      }),
      { numRuns: 30 },
    );
  });
  const mapCounts = <Own extends object>(own: Own, toCount: (counter: keyof Own) => number) =>
    Object.fromEntries(Object.keys(own).map((counter) => [counter, toCount(counter as keyof Own)])) as {
      [counter in keyof Own]: number;
    };

  test('the days of 400 days ago and of today are counted, at midnight and just before it', async () => {
    await query(
      `INSERT INTO project_days (day, project_id, created) SELECT (now() AT TIME ZONE 'UTC')::date - i, 1, i
       FROM unnest('{0,400,401}'::int[]) AS i`,
    );
    await query(
      `INSERT INTO project_minutes (minute, project_id, updated)
       SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '1 min' * i, 1, 1 + i
       FROM unnest('{0,1}'::int[]) AS i`,
    );
    const days = (await store.activity.usage(1)).map(({ day, created, updated }) => [day, created, updated]);
    expect(days.sort()).toEqual([
      [await toDay(400), 400, 0],
      [await toDay(1), 0, 2],
      [await toDay(0), 0, 1],
    ]);
    expect(await store.activity.usage(2)).toEqual([]);
  });
});
