import type { ListedProject, ProjectActivity, SeenProcess, SilentProject } from '@opm/store';

/**
 * What is wrong. `advice`: what to do, in words that hold for a terminal and for the console. `help`: a command, a
 * section of docs/, or both. `page`: where the console shows more. `projectId` and `name`: the partner that it is
 * about; `kind`: the problem in a word, for a list of partners.
 */
export type Problem = {
  what: string;
  advice: string;
  help: string;
  page?: 'partners' | 'unavailable' | 'dead letters' | 'queues';
  projectId?: number;
  name?: string;
  kind?: string;
};

/** `lastHour`: the projects that were active, with their counts of this hour. */
export type PartnerActivity = { lastHour: ProjectActivity[]; silentProjects: SilentProject[] };

/** What PostgreSQL knows. `deadLetters`: their number. */
export type StoreStatus = PartnerActivity & {
  now: Date;
  processes: SeenProcess[];
  projects: ListedProject[];
  deadLetters: number;
};

/** What the queue's store knows. `check`: a warning. `idle`: queues without a worker. `paused`: paused queues. */
export type QueueStatus = {
  entries: number;
  jobs: number;
  oldestSeconds: number;
  memory: number;
  idle: string[];
  paused: string[];
  check: string | undefined;
};

/** Processes report every 5 s. */
export const SILENT_SECONDS = 20;
/** How long a process that was killed is reported. */
const KILLED_SECONDS = 3_600;
/** An entry that waits longer is a problem. */
const MAX_WAIT_SECONDS = 60;
/** Share of the memory of the queue's store. */
const MAX_MEMORY_USE = 0.7;
/** A problem is over if it has affected no entry for this long. */
const RECENT_MS = 5 * 60 * 1_000;
/** Counts are kept per minute, so `…Until` may be a minute early. */
const MINUTE_MS = 60_000;
/** With fewer invalid entries, no problem is reported. */
const MIN_INVALID = 20;
/** One or two entries are refused with 503 if an ingress restarts. Partners resend them. */
const MIN_UNAVAILABLE = 3;
/** The objective of docs/monitoring.md: at most one in a thousand is refused with 503. */
const UNAVAILABLE_SHARE = 0.001;
/** Partners that are named for each problem. */
const MAX_NAMED = 5;

/** A command, and the section of docs/status.md that explains it. */
const see = (command: string, section: string) => `${command} (docs/status.md#${section})`;
/** Project 0 has no name. */
const UNNAMED = 'Projects beyond 10,000, or unknown ones';
const runbook = (section: string) => `docs/runbook.md#${section}`;

const SILENT_HELP = 'docs/status.md#a-process-does-not-report';
/** What Docker calls a host. The pid of a process in a container says nothing outside. */
const CONTAINER = /^[0-9a-f]{12}$/;
const toSilentHelp = ({ host, pid }: SeenProcess) =>
  CONTAINER.test(host) ? SILENT_HELP : `ps -o pid,stat,etime,args -p ${pid} (${SILENT_HELP})`;

/**
 * Lists the problems: first those of all partners, then those of single partners. Of these, it names the first five of
 * each kind and counts the rest.
 */
export function findProblems(store: StoreStatus | Error, queue: QueueStatus | Error): Problem[] {
  return [
    ...findStoreProblems(store),
    ...findQueueProblems(queue),
    ...(store instanceof Error ? [] : [...findRefusals(store), ...byKind(store).flatMap(nameFirst)]),
  ];
}

/** Lists the problems of single partners, without a limit. */
export const findPartnerProblems = (store: StoreStatus): Problem[] => byKind(store).flat();

function findStoreProblems(store: StoreStatus | Error): Problem[] {
  if (store instanceof Error) {
    const what = `PostgreSQL cannot be read: ${store.message}.`;
    const advice = 'Start it, or find out why it cannot be reached. Entries that wait are stored afterwards.';
    return [{ what, advice, help: runbook('postgresql-is-down-or-slow') }];
  }
  const problems: Problem[] = [];
  const live = store.processes.filter(({ silentSeconds }) => silentSeconds < SILENT_SECONDS);
  for (const name of ['ingress', 'worker']) {
    if (!live.some((process) => process.name === name)) {
      const advice = 'Start one. If one runs, its log says why it does not report.';
      problems.push({ what: `No ${name} reports.`, advice, help: SILENT_HELP });
    }
  }
  for (const seen of store.processes) {
    const { name, host, pid, silentSeconds, state } = seen;
    const process = `The ${name} with pid ${pid} on ${host}`;
    if (silentSeconds >= SILENT_SECONDS && silentSeconds < KILLED_SECONDS) {
      const since = toSince(new Date(store.now.getTime() - silentSeconds * 1_000), store.now);
      const what = `${process} has not reported ${since}: frozen, killed, or cut off from PostgreSQL.`;
      const advice = 'Restart it on its host, unless another one has replaced it. No accepted entry is lost.';
      problems.push({ what, advice, help: toSilentHelp(seen) });
    } else if (silentSeconds < SILENT_SECONDS && state.isPaused) {
      const what = `${process} is paused: PostgreSQL refuses its statements.`;
      const advice =
        'Its log says why, such as a full disk or a missing table. Correct that, and it resumes by itself.';
      problems.push({ what, advice, help: runbook('a-worker-pauses') });
    }
  }
  return problems;
}

function findQueueProblems(queue: QueueStatus | Error): Problem[] {
  if (queue instanceof Error) {
    const what = `The queue fails: ${queue.message}. Partners get 503.`;
    const advice = 'Start its store, or find out why it cannot be reached. Partners can resend what is refused.';
    return [{ what, advice, help: runbook('partners-get-503') }];
  }
  const problems: Problem[] = [];
  if (queue.check) {
    // If masters do not answer either, the check names these first.
    const [advice, section] = queue.check.startsWith('Redis has no append-only file')
      ? ["Set Redis' appendonly to yes and appendfsync to always.", 'redis-has-no-append-only-file']
      : ['The runbook lists such texts, and what to correct.', 'a-process-does-not-start-or-is-not-ready'];
    problems.push({ what: `The queue's store: ${queue.check}.`, advice, help: runbook(section) });
  }
  const backlog = { help: runbook('the-backlog-grows'), page: 'queues' as const };
  if (queue.paused.length > 0) {
    const what = `Somebody paused ${queue.paused.join(', ')}: entries are accepted and not stored.`;
    problems.push({ what, advice: "Resume it on the console's page Queues.", ...backlog });
  }
  if (queue.idle.length > 0) {
    const what = `No worker takes jobs from ${queue.idle.join(', ')}.`;
    problems.push({ what, advice: 'Start a worker. If one runs, its log says what stops it.', ...backlog });
  }
  if (queue.oldestSeconds > MAX_WAIT_SECONDS) {
    const what = `The oldest entry has waited for ${toDuration(queue.oldestSeconds)}, of ${toCount(queue.entries, 'entry')}.`;
    problems.push({ what, advice: 'Add workers, if no other problem explains it. No entry is lost.', ...backlog });
  }
  if (queue.memory > MAX_MEMORY_USE) {
    const what = `Redis uses ${Math.round(100 * queue.memory)} % of its memory; from 90 % on, entries are refused.`;
    const advice = 'Give Redis more memory. If entries wait, find out why they are not stored.';
    problems.push({ what, advice, help: runbook('redis-is-full'), page: 'queues' });
  }
  return problems;
}

/** Entries of all partners that were refused with 503. */
function findRefusals({ now, lastHour }: StoreStatus): Problem[] {
  const affected = byCount(lastHour, 'refusedUnavailable');
  const refused = affected.reduce((sum, { refusedUnavailable }) => sum + refusedUnavailable, 0);
  const sent = refused + lastHour.reduce((sum, own) => sum + acceptedOf(own), 0);
  const since = new Date(Math.min(...affected.map((own) => Number(own.refusedUnavailableSince))));
  const until = new Date(Math.max(...affected.map((own) => Number(own.refusedUnavailableUntil))));
  if (refused < MIN_UNAVAILABLE || refused <= sent * UNAVAILABLE_SHARE || !isRecent(until, now)) return [];
  const names = toFirst(affected.map(({ name }) => name ?? 'unknown partners')).join(', ');
  const what = `${toNumber(refused)} of ${toCount(sent, 'entry')} refused with 503 ${toPeriod(since, until, now)}: of ${names}.`;
  const advice =
    'The logs of the ingresses say why: overload, or a failing store. Partners can resend what is refused.';
  return [{ what, advice, help: runbook('partners-get-503'), page: 'unavailable' }];
}

/** A list for each kind of problem, the worst partners first. */
function byKind({ now, projects, lastHour, silentProjects }: StoreStatus): Problem[][] {
  const limits = new Map(projects.map(({ projectId, rate }) => [projectId, rate]));
  const recent = (counter: CounterOfPartners) =>
    byCount(lastHour, counter).filter((own) => isRecent(own[`${counter}Until`], now));
  const period = (own: ProjectActivity, counter: CounterOfPartners) =>
    toPeriod(own[`${counter}Since`] ?? now, own[`${counter}Until`] ?? now, now);
  const ofAll = (count: number, others: number) => `${toNumber(count)} of ${toCount(count + others, 'entry')}`;
  return [
    recent('refusedLimited').map((own) => {
      const { state, advice } = toLimitState(own, limits.get(own.projectId));
      return ofPartner(own, 'over its limit', toStats, 'a-partner-is-over-its-limit', {
        what: `${ofAll(own.refusedLimited, acceptedOf(own))} refused with 429 ${period(own, 'refusedLimited')}. ${state}`,
        advice,
      });
    }),
    recent('deadLetters').map((own) =>
      ofPartner(own, 'dead letters', toLetters, 'a-partners-entries-become-dead-letters', {
        what: `${ofAll(own.deadLetters, own.persisted)} became dead letters ${period(own, 'deadLetters')}.`,
        advice: 'Their errors say why. Correct the cause, or ask the partner for other values; then replay them.',
        page: 'dead letters',
      }),
    ),
    recent('refusedInvalid')
      .filter(isMostlyInvalid)
      .map((own) =>
        ofPartner(own, 'invalid entries', toStats, 'a-partner-sends-invalid-entries', {
          what: `${ofAll(own.refusedInvalid, acceptedOf(own))} refused as invalid ${period(own, 'refusedInvalid')}.`,
          advice: 'Tell the partner. The answer to each of them names what is not valid.',
        }),
      ),
    silentProjects.map((own) =>
      ofPartner(own, 'silent', toKeys, 'a-partner-fell-silent', {
        what: `sent entries steadily, and none ${toSince(own.lastEntry, now)}.`,
        advice: 'Ask the partner, and check that its keys are valid.',
      }),
    ),
  ];
}

/** The limit may have been raised since the refusals. */
function toLimitState(own: ProjectActivity, limit: number | null | undefined): { state: string; advice: string } {
  if (!limit) {
    const advice = 'If refusals go on, it uses too many idempotency keys: ask it to send batches.';
    return { state: 'It has no limit now.', advice };
  }
  const sent = Math.ceil(own.acceptedPerSecond + own.refusedPerSecond);
  const state = `It sends ${toNumber(sent)}/s, and its limit is ${toNumber(limit)}/s now.`;
  if (sent > limit) return { state, advice: 'Raise the limit, or ask the partner to send more slowly.' };
  return { state, advice: 'If you have raised the limit, nothing is left to do. If not, raise the burst.' };
}

/** @param told `what` without the name @param section of docs/status.md; project 0 has another one */
function ofPartner(
  { projectId, name }: Pick<ProjectActivity, 'projectId' | 'name'>,
  kind: string,
  toCommand: (name: string) => string,
  section: string,
  told: Pick<Problem, 'what' | 'advice' | 'page'>,
): Problem {
  const what = `${name ?? UNNAMED}: ${told.what}`;
  if (name === null) return { ...told, what, help: 'docs/status.md#what-is-counted', kind };
  return { ...told, what, help: see(toCommand(name), section), projectId, name, kind };
}

/** Entries and erasures that were answered 201 or 202. */
export const acceptedOf = ({ created, updated, erased }: ProjectActivity): number => created + updated + erased;

type CounterOfPartners = 'refusedLimited' | 'deadLetters' | 'refusedInvalid';

const byCount = (activities: ProjectActivity[], counter: CounterOfPartners | 'refusedUnavailable') =>
  activities.filter((activity) => activity[counter] > 0).toSorted((a, b) => b[counter] - a[counter]);

const isMostlyInvalid = (own: ProjectActivity) =>
  own.refusedInvalid >= MIN_INVALID && own.refusedInvalid > acceptedOf(own);

/** @param until the minute of the last affected entry */
const isRecent = (until: Date | null, now: Date) =>
  until !== null && now.getTime() - until.getTime() < RECENT_MS + MINUTE_MS;

function nameFirst(problems: Problem[]): Problem[] {
  const [first] = problems;
  const others = problems.length - MAX_NAMED;
  if (others <= 0 || !first?.kind) return problems;
  const what = `${toCount(others, 'other partner')}: ${first.kind}, too.`;
  const help = see('opm projects stats', 'opm-projects-stats');
  return [...problems.slice(0, MAX_NAMED), { what, advice: 'See the list of partners.', help, page: 'partners' }];
}

function toFirst(names: string[]): string[] {
  const others = names.length - MAX_NAMED;
  return [...names.slice(0, MAX_NAMED), ...(others > 0 ? [toCount(others, 'other partner')] : [])];
}

/** A word of a shell command. */
const quote = (word: string) => (/^[\w.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

const toStats = (name: string) => `opm projects stats ${toArgument(name)}`;
const toKeys = (name: string) => `opm keys list ${toArgument(name)}`;
const toLetters = (name: string) => `opm dead-letters list --limit 5 --project=${quote(name)}`;

/** A name as an argument of `opm`. Without `--`, it would take a name that begins with `-` for an option. */
const toArgument = (name: string) => `${name.startsWith('-') ? '-- ' : ''}${quote(name)}`;

/** A whole number with separators, such as 1,457. */
export const toNumber = (count: number): string => Math.round(count).toLocaleString('en-US');

/** Such as `1 entry` or `1,457 entries`. */
export function toCount(count: number, what: string): string {
  return `${toNumber(count)} ${count === 1 ? what : what.replace(/y?$/, what.endsWith('y') ? 'ies' : 's')}`;
}

const toClock = (time: Date): string => `${time.toISOString().slice(11, 16)} UTC`;

/** Such as `since 11:42 UTC (18 min)`. */
const toSince = (time: Date, now: Date): string =>
  `since ${toClock(time)} (${toDuration((now.getTime() - time.getTime()) / 1_000)})`;

/** Such as `since 11:42 UTC (18 min), the last at 11:59 UTC`. Both are minutes. */
const toPeriod = (since: Date, until: Date, now: Date): string =>
  since < until ? `${toSince(since, now)}, the last at ${toClock(until)}` : `at ${toClock(until)}`;

/** Such as `45 s`, `12 min`, `3 h` or `2 d`. */
export function toDuration(seconds: number): string {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)} min`;
  return seconds < 48 * 3_600 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} d`;
}
