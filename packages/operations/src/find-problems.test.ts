import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import type { ProjectActivity, SeenProcess } from '@opm/store';
import { findPartnerProblems, findProblems, type QueueStatus, type StoreStatus } from './find-problems.js';
import { toMemory, toWaiting } from './status.js';

const now = new Date('2026-11-30T12:00:00Z');
const minutesAgo = (minutes: number) => new Date(now.getTime() - minutes * 60_000);

const toProcess = (name: string, changes: Partial<SeenProcess> = {}): SeenProcess => ({
  ...{ id: 'id', name, host: 'host', pid: 7, version: '1.0.0', uptimeSeconds: 60, silentSeconds: 1, state: {} },
  ...changes,
});
const toActivity = (name: string, changes: Partial<ProjectActivity>): ProjectActivity => ({
  ...{ projectId: 1, name, lastSeen: now, refusedLimitedSince: now, refusedLimitedUntil: now },
  ...{ refusedInvalidSince: now, refusedInvalidUntil: now, deadLettersSince: now, deadLettersUntil: now },
  ...{ refusedUnavailableSince: now, refusedUnavailableUntil: now },
  ...{ acceptedPerSecond: 0, refusedPerSecond: 0, persistedPerSecond: 0 },
  ...{ answered2xx: 0, answered4xx: 0, answered429: 0, answered5xx: 0, created: 0, updated: 0, erased: 0 },
  ...{ refusedInvalid: 0, refusedLimited: 0, refusedUnavailable: 0, persisted: 0, deadLetters: 0 },
  ...changes,
});
const toStore = (changes: Partial<StoreStatus> = {}): StoreStatus => ({
  ...{
    now,
    processes: [toProcess('ingress'), toProcess('worker')],
    projects: [],
    lastHour: [],
    silentProjects: [],
    deadLetters: 0,
  },
  ...changes,
});
const toQueue = (changes: Partial<QueueStatus> = {}): QueueStatus => ({
  ...{ entries: 0, jobs: 0, oldestSeconds: 0, memory: 0, idle: [], paused: [], check: undefined },
  ...changes,
});
const whats = (store: StoreStatus | Error, queue: QueueStatus | Error = toQueue()) =>
  findProblems(store, queue).map(({ what }) => what);

test('nothing is wrong if all processes report and nothing is refused or late', () => {
  expect(whats(toStore(), toQueue({ entries: 900, jobs: 9, oldestSeconds: 60, memory: 0.7 }))).toEqual([]);
});

test('a paused queue is a problem even if nothing else is', () => {
  expect(whats(toStore(), toQueue({ paused: ['entries-0'] }))).toEqual([
    'Somebody paused entries-0: entries are accepted and not stored.',
  ]);
});

test('what stops everybody comes before the problems of single partners', () => {
  const lastHour = [
    toActivity('acme', { refusedLimited: 3, refusedLimitedSince: minutesAgo(5), refusedLimitedUntil: minutesAgo(1) }),
  ];
  expect(whats(toStore({ lastHour }), new Error('ECONNREFUSED'))).toEqual([
    'The queue fails: ECONNREFUSED. Partners get 503.',
    'acme: 3 of 3 entries refused with 429 since 11:55 UTC (5 min), the last at 11:59 UTC. It has no limit now.',
  ]);
  expect(
    whats(new Error('timeout'), toQueue({ idle: ['entries-0'], oldestSeconds: 7_200, entries: 12_000, memory: 0.8 })),
  ).toEqual([
    'PostgreSQL cannot be read: timeout.',
    'No worker takes jobs from entries-0.',
    'The oldest entry has waited for 2 h, of 12,000 entries.',
    'Redis uses 80 % of its memory; from 90 % on, entries are refused.',
  ]);
});

test('a process that does not report is named for an hour, and its kind is missed if no other is left', () => {
  const silent = (silentSeconds: number) =>
    toStore({ processes: [toProcess('ingress'), toProcess('worker', { silentSeconds })] });
  const missing = 'No worker reports.';
  const what =
    'The worker with pid 7 on host has not reported since 11:59 UTC (45 s): frozen, killed, or cut off from PostgreSQL.';
  expect(whats(silent(19))).toEqual([]);
  expect(whats(silent(45))).toEqual([missing, what]);
  expect(whats(silent(3_700))).toEqual([missing]);
  const paused = toProcess('worker', { state: { isPaused: true } });
  expect(whats(toStore({ processes: [toProcess('ingress'), paused] }))).toEqual([
    'The worker with pid 7 on host is paused: PostgreSQL refuses its statements.',
  ]);
});

test.each([
  ['host-b', 'ps -o pid,stat,etime,args -p 71 (docs/status.md#a-process-does-not-report)'],
  ['3f2b9c01d4e5', 'docs/status.md#a-process-does-not-report'],
])('the help for a silent process on %s has a command, unless it runs in a container', (host, help) => {
  const silent = toProcess('worker', { host, pid: 71, silentSeconds: 45 });
  const problems = findProblems(toStore({ processes: [toProcess('ingress'), toProcess('worker'), silent] }), toQueue());
  expect(problems).toEqual([expect.objectContaining({ help })]);
});

test('the five worst partners of each kind are named, and the others are counted; their own pages name them, too', () => {
  const lastHour = Array.from({ length: 8 }, (_, i) => toActivity(`p${i}`, { deadLetters: i + 1 }));
  const problems = whats(toStore({ lastHour }));
  expect(problems.map((what) => what.split(':')[0])).toEqual(['p7', 'p6', 'p5', 'p4', 'p3', '3 other partners']);
  expect(problems.at(-1)).toBe('3 other partners: dead letters, too.');
  const all = findPartnerProblems(toStore({ lastHour }));
  expect([all.length, all.at(-1)?.name, all.at(-1)?.kind]).toEqual([8, 'p0', 'dead letters']);
});

test('invalid entries are a problem if a partner sends more of them than valid ones', () => {
  const lastHour = [
    toActivity('mostly', { refusedInvalid: 30, created: 29 }),
    toActivity('some', { refusedInvalid: 30, updated: 30 }),
    toActivity('few', { refusedInvalid: 19 }),
  ];
  expect(whats(toStore({ lastHour })).map((what) => what.split(':')[0])).toEqual(['mostly']);
});

test('a command in a problem can be pasted, whatever the name of the project', () => {
  const lastHour = [toActivity(`it's $(rm)`, { deadLetters: 1 })];
  expect(findProblems(toStore({ lastHour }), toQueue())[0]?.help).toBe(
    `opm dead-letters list --limit 5 --project='it'\\''s $(rm)' (docs/status.md#a-partners-entries-become-dead-letters)`,
  );
});

test('every problem has advice that holds without a terminal, and every section that it names exists', () => {
  const anchorsOf = (file: string) => {
    const headings = readFileSync(new URL(`../../../${file}`, import.meta.url), 'utf8').match(/^## .+$/gm) ?? [];
    return headings.map(
      (heading) => `${file}#${heading.slice(3).toLowerCase().replaceAll("'", '').replaceAll(' ', '-')}`,
    );
  };
  const anchors = [...anchorsOf('docs/runbook.md'), ...anchorsOf('docs/status.md')];
  const processes = [toProcess('ingress', { silentSeconds: 60 }), toProcess('worker', { state: { isPaused: true } })];
  const lastHour = [
    toActivity('acme', { refusedUnavailable: 3, refusedLimited: 1 }),
    toActivity('other', { deadLetters: 1, refusedInvalid: 20 }),
    { ...toActivity('', { deadLetters: 1 }), name: null },
  ];
  const silentProjects = [{ projectId: 1, name: 'acme', lastEntry: now }];
  const paused = ['entries-0'];
  const everything = toQueue({ check: 'a warning', paused, idle: ['entries-0'], oldestSeconds: 61, memory: 0.71 });
  const problems = [
    ...findProblems(toStore({ processes, lastHour, silentProjects }), everything),
    ...findProblems(new Error('timeout'), new Error('timeout')),
    ...findProblems(toStore(), toQueue({ check: 'Redis has no append-only file (appendonly is off)' })),
  ];
  expect(problems).toHaveLength(17);
  const others = problems.filter(
    ({ help }) => !anchors.some((anchor) => help === anchor || help.endsWith(` (${anchor})`)),
  );
  expect(others).toEqual([]);
  expect(problems.filter(({ advice }) => !/^[A-Z].*[^.]\.$/.test(advice) || /docs\/|opm /.test(advice))).toEqual([]);
});

test('refusals and dead letters are a problem until none came for five minutes, and say when the last one came', () => {
  const toOwn = (minutes: number) => {
    const [since, until] = [minutesAgo(50), minutesAgo(minutes)];
    return [
      toActivity('acme', { refusedLimited: 1, refusedLimitedSince: since, refusedLimitedUntil: until }),
      toActivity('beta', { refusedUnavailable: 3, refusedUnavailableSince: since, refusedUnavailableUntil: until }),
      toActivity('gamma', { deadLetters: 1, deadLettersSince: since, deadLettersUntil: until }),
      toActivity('delta', { refusedInvalid: 20, refusedInvalidSince: since, refusedInvalidUntil: until }),
    ];
  };
  const times = 'since 11:10 UTC (50 min), the last at 11:55 UTC';
  expect(whats(toStore({ lastHour: toOwn(5) }))).toEqual([
    `3 of 3 entries refused with 503 ${times}: of beta.`,
    `acme: 1 of 1 entry refused with 429 ${times}. It has no limit now.`,
    `gamma: 1 of 1 entry became dead letters ${times}.`,
    `delta: 20 of 20 entries refused as invalid ${times}.`,
  ]);
  expect(whats(toStore({ lastHour: toOwn(6) }))).toEqual([]); // counts are those of whole minutes
});

test('a partner over its limit has to send more slowly; if its limit was raised since, nothing says that it is too low', () => {
  const toProblem = (rate: number) => {
    const projects = [{ projectId: 1, name: 'acme', rate, burst: 10, pausedAt: null }];
    const own = { refusedLimited: 1_302, created: 6_343, acceptedPerSecond: 20, refusedPerSecond: 18.4 };
    return findProblems(toStore({ projects, lastHour: [toActivity('acme', own)] }), toQueue())[0];
  };
  const what = 'acme: 1,302 of 7,645 entries refused with 429 at 12:00 UTC. It sends 39/s, and its limit is';
  expect(toProblem(20)).toMatchObject({
    what: `${what} 20/s now.`,
    advice: 'Raise the limit, or ask the partner to send more slowly.',
  });
  expect(toProblem(100)).toMatchObject({
    what: `${what} 100/s now.`,
    advice: 'If you have raised the limit, nothing is left to do. If not, raise the burst.',
  });
});

test('refusals with 503 are a problem from three entries and one in a thousand on, and name the first partners', () => {
  const whatOf = (refused: number, created: number) =>
    whats(toStore({ lastHour: [toActivity('acme', { refusedUnavailable: refused, created })] }));
  expect(whatOf(2, 10)).toEqual([]);
  expect(whatOf(3, 10)).toEqual(['3 of 13 entries refused with 503 at 12:00 UTC: of acme.']);
  expect(whatOf(9, 8_991)).toEqual([]);
  expect(whatOf(10, 8_990)).toEqual(['10 of 9,000 entries refused with 503 at 12:00 UTC: of acme.']);
  const many = Array.from({ length: 8 }, (_, i) => toActivity(`p${i}`, { refusedUnavailable: i + 1 }));
  expect(whats(toStore({ lastHour: many }))).toEqual([
    '36 of 36 entries refused with 503 at 12:00 UTC: of p7, p6, p5, p4, p3, 3 other partners.',
  ]);
});

test('jobs that cannot be read have no project, and a name may look like an option', () => {
  const unknown = { ...toActivity('', { projectId: 0, deadLetters: 1 }), name: null };
  const dashed = toActivity('--none', { refusedInvalid: 20 });
  expect(findProblems(toStore({ lastHour: [unknown, dashed] }), toQueue())).toEqual([
    {
      what: 'Projects beyond 10,000, or unknown ones: 1 of 1 entry became dead letters at 12:00 UTC.',
      advice: 'Their errors say why. Correct the cause, or ask the partner for other values; then replay them.',
      help: 'docs/status.md#what-is-counted',
      page: 'dead letters',
      kind: 'dead letters',
    },
    {
      what: '--none: 20 of 20 entries refused as invalid at 12:00 UTC.',
      advice: 'Tell the partner. The answer to each of them names what is not valid.',
      help: 'opm projects stats -- --none (docs/status.md#a-partner-sends-invalid-entries)',
      ...{ projectId: 1, name: '--none', kind: 'invalid entries' },
    },
  ]);
});

test.each([
  [0, undefined],
  [0.001, '0 %'],
  [0.016, '2 %'],
])('a share of memory of %d is shown as %s: without a limit, there is none', (memory, text) => {
  expect(toMemory({ memory })).toBe(text);
});

test.each([
  [0, 0, '0 entries in 0 jobs'],
  [1, 0, '1 entry, about to enter a job or just stored'],
  [41, 3, '41 entries in 3 jobs'],
])('%i entries of the backlog and %i jobs do not contradict each other', (entries, jobs, text) => {
  expect(toWaiting({ entries, jobs })).toBe(text);
});
