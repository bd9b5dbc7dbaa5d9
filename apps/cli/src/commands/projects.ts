import type { Days, DayUsage } from '@opm/contract';
import type { RateLimit } from '@opm/core';
import { type ProjectStats, readProjectStats, toCount, toDuration } from '@opm/operations';
import type { AuditRecord, Store } from '@opm/store';
import { Command, Option } from 'commander';
import { type Moment, parseMoment, parseWholeNumber } from '../parse.js';
import { escapeLines, type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, recordChange, withStore } from '../with-store.js';

export function projectsCommand(env: NodeJS.ProcessEnv): Command {
  const projects = new Command('projects').description(
    'Manage projects. Each partner has one, with its own customers and API keys.',
  );

  projects
    .command('create')
    .argument('<name>')
    .option('--json', 'print JSON')
    .description('Create a project and its first API key, shown only once.')
    .action(async (name: string, options: PrintOptions) => {
      const project = await withStore(env, async (store) => {
        await recordChange(store, { action: 'projects create', target: name });
        return store.projects.create(name);
      });
      print(options, project, [
        `Created project ${project.name} (id ${project.projectId}).`,
        `API key, shown only once: ${project.apiKey}`,
      ]);
    });

  projects
    .command('list')
    .option('--json', 'print JSON')
    .description('List all projects with their limits.')
    .action(async (options: PrintOptions) => {
      const list = await withStore(env, (store) => store.projects.list());
      print(options, list, toTable(list));
    });

  projects
    .command('rename')
    .argument('<name>')
    .argument('<new-name>')
    .option('--json', 'print JSON')
    .description('Rename a project. Its keys, customers and counts stay.')
    .action(async (name: string, newName: string, options: PrintOptions) => {
      const projectId = await change(
        env,
        { action: 'projects rename', target: name, details: { newName } },
        (store, id) => store.projects.rename(id, newName),
      );
      print(options, { projectId, name: newName }, [`Project ${name} is now ${newName}.`]);
    });

  projects
    .command('pause')
    .argument('<name>')
    .option('--json', 'print JSON')
    .description('Answer all requests of a project with 403, within about a second. Entries that wait are stored.')
    .action(async (name: string, options: PrintOptions) => {
      const projectId = await change(env, { action: 'projects pause', target: name }, (store, id) =>
        store.projects.setPaused(id, true),
      );
      print(options, { projectId, isPaused: true }, [`Project ${name} is paused: \`opm projects resume\` ends that.`]);
    });

  projects
    .command('resume')
    .argument('<name>')
    .option('--json', 'print JSON')
    .description('End the pause of a project.')
    .action(async (name: string, options: PrintOptions) => {
      const projectId = await change(env, { action: 'projects resume', target: name }, (store, id) =>
        store.projects.setPaused(id, false),
      );
      print(options, { projectId, isPaused: false }, [`Project ${name} is not paused.`]);
    });

  projects
    .command('limits')
    .argument('<name>')
    .option('--rate <entries>', 'entries per second that the project may send', parseWholeNumber)
    .option('--burst <entries>', 'entries that it may send at once after a quiet period', parseWholeNumber)
    .option('--none', 'remove the limit')
    .option('--json', 'print JSON')
    .description('Limit what a project may send, or show its limit. A change takes effect within about a second.')
    .action(async (name: string, options: PrintOptions & LimitFlags) => {
      const project = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, name);
        if (hasLimit(options)) {
          const limit = toLimit(options);
          const details = limit ?? { rate: null, burst: null };
          await recordChange(store, { action: 'projects limits', target: name, details });
          await store.projects.setLimit(projectId, limit);
        }
        return (await store.projects.list()).find((listed) => listed.projectId === projectId);
      });
      const { projectId, rate, burst } = project ?? {};
      print(options, { projectId, name, rate, burst }, [
        rate
          ? `Project ${name} may send ${toCount(rate, 'entry')} per second, with a burst of ${burst}.`
          : `Project ${name} has no limit.`,
      ]);
    });

  projects
    .command('stats')
    .argument('[name]')
    .addOption(
      new Option('--since <time>', 'from this time on: 2026-11-24T18:00Z, or 1h for the last hour')
        .argParser(parseMoment)
        .default(AN_HOUR_AGO, '1h'),
    )
    .option('--json', 'print JSON')
    .description('Show what became of the entries of each project, the busiest first, or of one project.')
    .addHelpText(
      'after',
      '\nCounts of more than three hours ago are kept by day (UTC): then --since counts from the start of its day.',
    )
    .action(async (name: string | undefined, options: PrintOptions & { since: Moment }) => {
      const { from, stats, lastSeen } = await readStats(env, options.since, name);
      const rows = stats.map(toRow);
      const [row] = rows;
      const lines = name && row ? toTable(Object.entries(row).map(toColumns)) : toTable(rows);
      const none = lastSeen ? `no requests; the last one was at ${toMinute(lastSeen)}` : 'no requests';
      print(options, stats, [`Since ${toMinute(from)}:`, ...(row ? lines : [none])]);
    });

  projects
    .command('usage')
    .argument('<name>')
    .option('--from <day>', 'first day (UTC), such as 2026-11-01 (default: 29 days before the last)')
    .option('--to <day>', 'last day (UTC; default: today)')
    .addOption(new Option('--csv', 'print CSV').conflicts('json'))
    .option('--json', 'print JSON')
    .description('Count the entries of a project per day, by what became of them, as GET /usage does.')
    .action(async (name: string, { csv, json, ...query }: PrintOptions & { csv?: true } & Partial<Days>) => {
      const days = await readUsage(env, name, query);
      const rows = days.map(({ refused, notStored, ...usage }) => ({ ...usage, ...refused, notStored }));
      const { stringify } = await import('csv-stringify/sync');
      if (csv) process.stdout.write(stringify(rows, { header: true }));
      else print({ ...(json && { json }) }, days, toTable(rows));
    });

  return projects;
}

/** @throws UserError if there is no such project, or a day or the range is not valid */
async function readUsage(env: NodeJS.ProcessEnv, name: string, query: Partial<Days>): Promise<DayUsage[]> {
  const { Fault, parseDays, toUsageAnswer } = await import('@opm/contract'); // loads slowly
  return withStore(env, async (store) => {
    const { projectId } = await findProject(store, name);
    try {
      return toUsageAnswer(parseDays(query, await store.now()), await store.activity.usage(projectId)).days;
    } catch (error) {
      if (error instanceof Fault) throw new UserError(error.message.replaceAll('query/', '--'), 'usage');
      throw error;
    }
  });
}

/** Changes a project. @returns its id @throws UserError if there is no such project */
const change = (
  env: NodeJS.ProcessEnv,
  audited: Pick<AuditRecord, 'action' | 'details'> & { target: string },
  run: (store: Store, projectId: number) => Promise<void>,
) =>
  withStore(env, async (store) => {
    const { projectId } = await findProject(store, audited.target);
    await recordChange(store, audited);
    await run(store, projectId);
    return projectId;
  });

const TIMEOUT_MS = 10_000;
const TIMEOUTS = { connectTimeoutMs: TIMEOUT_MS, statementTimeoutMs: TIMEOUT_MS };

const AN_HOUR_AGO: Moment = (now) => new Date(now.getTime() - 3_600_000);

async function readStats(
  env: NodeJS.ProcessEnv,
  since: Moment,
  name: string | undefined,
): Promise<{ from: Date; stats: ProjectStats[]; lastSeen?: Date | undefined }> {
  const { withQueue } = await import('../with-queue.js'); // loads slowly
  const reading = withQueue(env, { force: true, answerTimeoutMs: TIMEOUT_MS }, (queue) => queue.readProjectBacklogs());
  const backlogs = reading.catch(({ message }: Error) =>
    console.error(escapeLines(`opm: backlogs are missing: ${message}`)),
  );
  return withStore(
    env,
    async (store) => {
      const only = name === undefined ? undefined : (await findProject(store, name)).projectId;
      const from = since(await store.now());
      const [projects, ofQueue] = [await store.projects.list(), (await backlogs) ?? undefined];
      const all = await readProjectStats(store, from, { projects, backlogs: ofQueue });
      const stats = all.filter(({ projectId }) => only === undefined || projectId === only);
      if (only === undefined || stats.length > 0) return { from, stats };
      return { from, stats, lastSeen: (await store.apiKeys.lastUses()).get(only) };
    },
    TIMEOUTS,
  );
}

/** Such as `2026-11-30T10:12Z`. */
const toMinute = (at: Date): string => `${at.toISOString().slice(0, 16)}Z`;

function toRow(stats: ProjectStats): Record<string, unknown> {
  const { name, acceptedPerSecond, refusedPerSecond, limit, backlog } = stats;
  const sentPerSecond = acceptedPerSecond + refusedPerSecond;
  return {
    project: name ?? '(others)',
    requests: stats.answered2xx + stats.answered4xx + stats.answered429 + stats.answered5xx,
    created: stats.created,
    updated: stats.updated,
    erased: stats.erased,
    invalid: stats.refusedInvalid,
    limited: stats.refusedLimited,
    unavailable: stats.refusedUnavailable,
    persisted: stats.persisted,
    dead: stats.deadLetters,
    waiting: backlog && `~${backlog.entries}`,
    oldest: backlog && toDuration(backlog.oldestMs / 1_000),
    'ack p99': toMs(stats.p99Ms.ingress),
    'row p99': toMs(stats.p99Ms.worker),
    'sent/s': sentPerSecond.toFixed(1),
    'of limit': limit === null ? null : `${Math.round((100 * sentPerSecond) / limit)} %`,
    'last seen': toMinute(stats.lastSeen),
  };
}

const toMs = (ms: number | undefined) => (ms === undefined ? null : `${Math.ceil(ms)} ms`);

const toColumns = ([what, value]: [string, unknown]) => ({ what, value });

type LimitFlags = { rate?: number; burst?: number; none?: true };

const hasLimit = ({ rate, burst, none }: LimitFlags): boolean =>
  rate !== undefined || burst !== undefined || none === true;

/** @returns undefined for --none @throws UserError for any other combination than both --rate and --burst */
function toLimit({ rate, burst, none }: LimitFlags): RateLimit | undefined {
  if (none && rate === undefined && burst === undefined) return undefined;
  if (!none && rate !== undefined && burst !== undefined) return { rate, burst };
  throw new UserError('specify both --rate and --burst, or only --none', 'usage');
}
