import type { ListedProject, ProjectActivity, SeenProcess, SilentProject } from '@opm/store';

/**
 * What is wrong, with what to do about it: a command, a section of docs/, or both. `projectId`: the partner that it is
 * about.
 */
export type Problem = { what: string; help: string; projectId?: number };

/**
 * What PostgreSQL knows. `lastHour`: the projects that were active, with their counts of this hour. `deadLetters`: their
 * number.
 */
export type StoreStatus = {
  now: Date;
  processes: SeenProcess[];
  projects: ListedProject[];
  lastHour: ProjectActivity[];
  silentProjects: SilentProject[];
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
/** A process that was killed and replaced is no problem for longer than this. */
const KILLED_SECONDS = 3_600;
const OLDEST_SECONDS = 60;
const MEMORY = 0.7;
/** A refusal that is longer ago is over. */
const RECENT_MS = 15 * 60 * 1_000;
/** Fewer invalid entries are a partner's slip. */
const MIN_INVALID = 20;
/** Partners that are named for each problem. */
const MAX_NAMED = 5;

/** A command, and the section of docs/status.md that explains it. */
const see = (command: string, section: string) => `${command} (docs/status.md#${section})`;
const runbook = (section: string) => `docs/runbook.md#${section}`;

const SILENT_HELP = 'docs/status.md#a-process-does-not-report';

/** Lists what is wrong: first what stops partners or loses time for all, then what concerns single partners. */
export function findProblems(store: StoreStatus | Error, queue: QueueStatus | Error): Problem[] {
  return [
    ...findStoreProblems(store),
    ...findQueueProblems(queue),
    ...(store instanceof Error ? [] : ofPartners(store)),
  ];
}

function findStoreProblems(store: StoreStatus | Error): Problem[] {
  if (store instanceof Error) {
    const what = `PostgreSQL cannot be read: ${store.message}.`;
    return [{ what, help: runbook('postgresql-is-down-or-slow') }];
  }
  const problems: Problem[] = [];
  const live = store.processes.filter(({ silentSeconds }) => silentSeconds < SILENT_SECONDS);
  for (const name of ['ingress', 'worker']) {
    if (!live.some((process) => process.name === name)) {
      problems.push({ what: `No ${name} reports.`, help: SILENT_HELP });
    }
  }
  for (const { name, host, pid, silentSeconds, state } of store.processes) {
    const process = `The ${name} with pid ${pid} on ${host}`;
    if (silentSeconds >= SILENT_SECONDS && silentSeconds < KILLED_SECONDS) {
      const since = toSince(new Date(store.now.getTime() - silentSeconds * 1_000), store.now);
      const what = `${process} has not reported ${since}: frozen, killed, or cut off from PostgreSQL.`;
      problems.push({ what, help: SILENT_HELP });
    } else if (silentSeconds < SILENT_SECONDS && state.isPaused) {
      problems.push({
        what: `${process} is paused: PostgreSQL refuses its statements.`,
        help: runbook('a-worker-pauses'),
      });
    }
  }
  return problems;
}

function findQueueProblems(queue: QueueStatus | Error): Problem[] {
  if (queue instanceof Error) {
    return [{ what: `The queue fails: ${queue.message}. Partners get 503.`, help: runbook('partners-get-503') }];
  }
  const problems: Problem[] = [];
  if (queue.check)
    problems.push({
      what: `The queue's store: ${queue.check}.`,
      help: runbook('a-process-does-not-start-or-is-not-ready'),
    });
  if (queue.paused.length > 0) {
    const what = `Somebody paused ${queue.paused.join(', ')}: entries are accepted and not stored.`;
    problems.push({ what, help: runbook('the-backlog-grows') });
  }
  if (queue.idle.length > 0) {
    const what = `No worker takes jobs from ${queue.idle.join(', ')}.`;
    problems.push({ what, help: runbook('the-backlog-grows') });
  }
  if (queue.oldestSeconds > OLDEST_SECONDS) {
    const what = `The oldest entry has waited for ${toDuration(queue.oldestSeconds)}, of ${toCount(queue.entries, 'entry')}.`;
    problems.push({ what, help: runbook('the-backlog-grows') });
  }
  if (queue.memory > MEMORY) {
    const what = `Redis uses ${Math.round(100 * queue.memory)} % of its memory; from 90 % on, entries are refused.`;
    problems.push({ what, help: runbook('redis-is-full') });
  }
  return problems;
}

function ofPartners({ now, projects, lastHour, silentProjects }: StoreStatus): Problem[] {
  const limits = new Map(projects.map(({ projectId, rate }) => [projectId, rate]));
  const since = (time: Date | null) => toSince(time ?? now, now);
  const isRecent = (time: Date | null) => time !== null && now.getTime() - time.getTime() < RECENT_MS;
  const unavailable = lastHour.filter(({ unavailableUntil }) => isRecent(unavailableUntil));
  const entries = unavailable.reduce((sum, { refusedUnavailable }) => sum + refusedUnavailable, 0);
  const limited = byCount(lastHour, 'refusedLimited').filter(({ limitedUntil }) => isRecent(limitedUntil));
  return [
    ...(entries > 0
      ? [
          {
            what: `${toCount(entries, 'entry')} refused with 503 within the last hour.`,
            help: runbook('partners-get-503'),
          },
        ]
      : []),
    ...name(limited, (own) => ({
      what:
        `${own.name}: ${toNumber(own.refusedLimited)} of ${toNumber(acceptedOf(own) + own.refusedLimited)} entries refused ` +
        `with 429 ${since(own.limitedSince)}, ` +
        `${limits.get(own.projectId) ? `limit ${limits.get(own.projectId)}/s` : 'no limit'}.`,
      help: see(`opm projects stats ${toArgument(own.name)}`, 'a-partner-is-over-its-limit'),
    })),
    ...name(byCount(lastHour, 'deadLetters'), (own) => ({
      what:
        `${own.name}: ${toNumber(own.deadLetters)} of ${toNumber(own.persisted + own.deadLetters)} entries became dead ` +
        `letters ${since(own.deadLettersSince)}.`,
      help: see(
        `opm dead-letters list --limit 5 --project=${quote(own.name)}`,
        'a-partners-entries-become-dead-letters',
      ),
    })),
    ...name(byCount(lastHour, 'refusedInvalid').filter(isMostlyInvalid), (own) => ({
      what:
        `${own.name}: ${toNumber(own.refusedInvalid)} of ${toNumber(acceptedOf(own) + own.refusedInvalid)} entries refused ` +
        'as invalid within the last hour.',
      help: see(`opm projects stats ${toArgument(own.name)}`, 'a-partner-sends-invalid-entries'),
    })),
    ...name(silentProjects, (own) => ({
      what: `${own.name}: sent entries steadily, and none ${since(own.lastEntry)}.`,
      help: see(`opm keys list ${toArgument(own.name)}`, 'a-partner-fell-silent'),
    })),
  ];
}

const acceptedOf = ({ created, updated, erased }: ProjectActivity) => created + updated + erased;

const byCount = (activities: ProjectActivity[], counter: 'refusedLimited' | 'deadLetters' | 'refusedInvalid') =>
  activities.filter((activity) => activity[counter] > 0).toSorted((a, b) => b[counter] - a[counter]);

const isMostlyInvalid = (own: ProjectActivity) =>
  own.refusedInvalid >= MIN_INVALID && own.refusedInvalid > acceptedOf(own);

/** Names the first partners, and counts the others. Project 0 has no name. */
function name<P extends { projectId: number; name: string | null }>(
  partners: P[],
  toProblem: (partner: P & { name: string }) => Problem,
): Problem[] {
  const problems = partners.slice(0, MAX_NAMED).map((partner) => {
    const { projectId } = partner;
    if (partner.name !== null) return { ...toProblem({ ...partner, name: partner.name }), projectId };
    return {
      ...toProblem({ ...partner, name: 'Projects beyond 10,000, or unknown ones' }),
      help: 'docs/status.md#what-is-counted',
    };
  });
  const last = problems.at(-1);
  const others = partners.length - problems.length;
  if (last && others > 0) last.what += ` The same for ${toCount(others, 'other partner')}: see \`opm projects stats\`.`;
  return problems;
}

/** A word of a shell command. */
const quote = (word: string) => (/^[\w.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** A name as an argument of `opm`. Without `--`, it would take a name that begins with `-` for an option. */
const toArgument = (name: string) => `${name.startsWith('-') ? '-- ' : ''}${quote(name)}`;

/** A whole number with separators, such as 1,457. */
export const toNumber = (count: number): string => Math.round(count).toLocaleString('en-US');

/** Such as `1 entry` or `1,457 entries`. */
export function toCount(count: number, what: string): string {
  return `${toNumber(count)} ${count === 1 ? what : what.replace(/y?$/, what.endsWith('y') ? 'ies' : 's')}`;
}

/** Such as `since 11:42 UTC (18 min)`. */
const toSince = (time: Date, now: Date): string =>
  `since ${time.toISOString().slice(11, 16)} UTC (${toDuration((now.getTime() - time.getTime()) / 1_000)})`;

/** Such as `45 s`, `12 min`, `3 h` or `2 d`. */
export function toDuration(seconds: number): string {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)} min`;
  return seconds < 48 * 3_600 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} d`;
}
