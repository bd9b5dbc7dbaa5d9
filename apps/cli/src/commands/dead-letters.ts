import { countAll, isSqlState, REPLAY_RATE } from '@opm/operations';
import type { Replayed } from '@opm/operations/actions';
import type { AuditRecord, DeadLetterFilter, Store } from '@opm/store';
import { Command, InvalidArgumentError } from 'commander';
import { type Moment, parseBigId, parseMoment, parsePositive } from '../parse.js';
import { confirm, createBar, type PrintOptions, print, toTable, YES } from '../print.js';
import { STOPPED_EXIT_CODE, UserError, withInterrupt } from '../user-error.js';
import type { QueueFlags } from '../with-queue.js';
import { findProject, recordChange, withStore } from '../with-store.js';

export function deadLettersCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('dead-letters')
    .description('Manage dead letters: acknowledged entries that could not be stored.')
    .addCommand(listCommand(env))
    .addCommand(showCommand(env))
    .addCommand(countCommand(env))
    .addCommand(replayCommand(env))
    .addCommand(discardCommand(env));
}

function listCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('list'))
    .option('--limit <n>', 'maximum number of dead letters', parsePositive, 50)
    .option('--json', 'print JSON')
    .description('List dead letters without their payloads, newest first.')
    .action(async (options: PrintOptions & FilterOptions & { limit: number }) => {
      const { list, nameOf } = await withStore(env, async (store) => {
        const list = await store.deadLetters.list(await toFilter(store, options), { limit: options.limit });
        return { list, nameOf: await readNames(store, list) };
      });
      const rows = list.map(({ deadLetterId, projectId, ...row }) => ({
        ...{ deadLetterId, project: nameOf(projectId) },
        ...row,
      }));
      print(options, list, toTable(rows));
    });
}

function showCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('show')
    .argument('<id>', 'id from `opm dead-letters list`', parseBigId)
    .option('--json', 'print JSON')
    .description('Show one dead letter with its payload, which is everything that the partner sent.')
    .action(async (id: string, options: PrintOptions) => {
      const letter = await withStore(env, (store) => store.deadLetters.find(id));
      if (!letter) throw new UserError(`there is no dead letter ${id}: see \`opm dead-letters list\``, 'not-found');
      const rows = Object.entries(letter).map(([column, value]) => ({
        column,
        value: column === 'payload' || column === 'requestIds' ? JSON.stringify(value) : value,
      }));
      print(options, letter, toTable(rows));
    });
}

function countCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('count'))
    .option('--json', 'print JSON')
    .description('Count dead letters by project and SQLSTATE.')
    .action(async (options: PrintOptions & FilterOptions) => {
      const { groups, nameOf } = await withStore(env, async (store) => {
        const groups = await countGroups(store, options);
        return { groups, nameOf: await readNames(store, groups) };
      });
      const count = countAll(groups);
      const rows = groups.map(({ projectId, ...row }) => ({ project: nameOf(projectId), ...row }));
      print(options, { count, groups }, [...toTable(rows), '', toLetters(count)]);
    });
}

function replayCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('replay'))
    .option('--rate <n>', 'maximum dead letters per second', parsePositive, REPLAY_RATE)
    .option('--dry-run', 'only count the dead letters')
    .option('--force', 'replay even if no worker takes jobs')
    .option('--json', 'print JSON')
    .description('Queue dead letters again with their original versions, so newer data is kept. Ctrl-C stops cleanly.')
    .addHelpText('after', "\nIf no stack is running, set the workers' variables: DATABASE_URL, REDIS_URL, …")
    .action(async (options: PrintOptions & ReplayFlags) => {
      if (options.dryRun) {
        return dryRun(
          env,
          options,
          (letters) => `Would replay ${letters}, except those that cannot be read as entries.`,
        );
      }
      const { replayed, skipped, isStopped } = await replayWithBar(env, options);
      const lines = [`Requeued ${toLetters(replayed)}.`];
      if (skipped === 1) lines.push('Skipped 1 dead letter that cannot be read as an entry.');
      if (skipped > 1) lines.push(`Skipped ${skipped} dead letters that cannot be read as entries.`);
      if (isStopped) lines.push('Stopped. The remaining dead letters were not replayed.');
      print(options, { replayed, skipped, ...(isStopped && { isStopped }) }, lines);
      if (isStopped) process.exitCode = STOPPED_EXIT_CODE;
    });
}

type ReplayFlags = QueueFlags & FilterOptions & { rate: number; dryRun?: true };

/** Replays with a progress bar on stderr, until Ctrl-C. @throws UserError */
async function replayWithBar(env: NodeJS.ProcessEnv, options: ReplayFlags): Promise<Replayed & { isStopped: boolean }> {
  // Imported lazily because the queue package loads slowly.
  const [{ toOperatorText, withQueue }, { ReplayInterrupted, replay }, { Fault }, { failureKindOf }] =
    await Promise.all([
      import('../with-queue.js'),
      import('@opm/operations/actions'),
      import('@opm/contract'),
      import('@opm/store'),
    ]);
  return withStore(env, async (store) => {
    const filter = await toFilter(store, options);
    const total = countAll(await store.deadLetters.count(filter));
    const replayAll = (signal: AbortSignal) =>
      withQueue(env, options, async (queue, shards) => {
        await recordChange(store, { action: 'dead-letters replay', ...toAudited(options, filter) });
        const bar = createBar('replay');
        bar.start(total);
        try {
          const done = await replay({
            deadLetters: store.deadLetters,
            findErased: store.customers.findErased,
            queue,
            shards,
            filter,
            rate: options.rate,
            onProgress: (handled) => bar.increment(handled),
            signal,
          });
          return { ...done, isStopped: signal.aborted };
        } catch (error) {
          if (!(error instanceof ReplayInterrupted)) throw error;
          const reason = error.cause as Error;
          const fault = reason.cause instanceof Fault ? reason.cause : undefined;
          throw new UserError(
            `${fault ? toOperatorText(fault) : reason.message}; requeued ${toLetters(error.done.replayed)}, the rest are still dead letters`,
            fault || failureKindOf(reason) === 'outage' ? 'unavailable' : 'failed',
          );
        } finally {
          bar.stop();
        }
      });
    return withInterrupt(replayAll);
  });
}

function discardCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('discard'))
    .option('--all', 'discard all dead letters; required if there is no filter')
    .option('--dry-run', 'only count the dead letters')
    .option(...YES)
    .option('--json', 'print JSON')
    .description('Discard dead letters permanently. Their payloads are deleted.')
    .action(async (options: PrintOptions & FilterOptions & { all?: true; dryRun?: true; yes?: true }) => {
      if (!options.all && !hasFilter(options)) {
        throw new UserError(
          'select dead letters with --id, --project, --since, --until, --error or --sql-state, or use --all',
          'usage',
        );
      }
      if (options.dryRun) return dryRun(env, options, (letters) => `Would discard ${letters}.`);
      await confirm(
        'The dead letters will be discarded, and their payloads deleted. `--dry-run` counts them.',
        options,
      );
      const discarded = await withStore(env, async (store) => {
        const filter = await toFilter(store, options);
        await recordChange(store, { action: 'dead-letters discard', ...toAudited(options, filter) });
        return store.deadLetters.discard(filter);
      });
      print(options, { discarded }, [`Discarded ${toLetters(discarded)}.`]);
    });
}

async function countGroups(store: Store, options: FilterOptions) {
  const found = await store.deadLetters.count(await toFilter(store, options));
  return found.map(({ projectId, sqlState, count }) => ({ projectId, sqlState, count }));
}

type OfProject = { projectId: number | null };

/** @returns the name of a project in these rows, or its id if it has none */
async function readNames(store: Store, rows: OfProject[]) {
  const names = await store.projects.names([...new Set(rows.flatMap(({ projectId }) => projectId ?? []))]);
  return (projectId: number | null) => (projectId === null ? null : (names.get(projectId) ?? projectId));
}

async function dryRun(
  env: NodeJS.ProcessEnv,
  options: PrintOptions & FilterOptions,
  toLine: (letters: string) => string,
): Promise<void> {
  const count = countAll(await withStore(env, (store) => countGroups(store, options)));
  print(options, { dryRun: true, count }, [toLine(toLetters(count))]);
}

type FilterOptions = {
  id?: string;
  project?: string;
  since?: Moment;
  until?: Moment;
  error?: string;
  sqlState?: string;
};

/** Adds the options that select dead letters. A dead letter must match all given filters. */
function addFilterOptions(command: Command): Command {
  return command
    .option('--id <id>', 'only the dead letter with this id', parseBigId)
    .option('--project <name>', 'only dead letters of this project')
    .option(
      '--since <time>',
      'only dead letters from this time on: 2026-11-24T18:00Z, or 24h for a day ago',
      parseMoment,
    )
    .option('--until <time>', 'only dead letters before this time', parseMoment)
    .option('--error <text>', 'only dead letters whose error contains this text, ignoring case', parseText)
    .option('--sql-state <state>', 'only dead letters with this SQLSTATE, or of this class, such as 22', parseSqlState)
    .addHelpText('after', '\nSeveral filters select the dead letters that match all of them.');
}

const hasFilter = ({ id, project, since, until, error, sqlState }: FilterOptions): boolean =>
  [id, project, since, until, error, sqlState].some((option) => option !== undefined);

/** @throws UserError if there is no such project */
async function toFilter(store: Store, options: FilterOptions): Promise<DeadLetterFilter> {
  const { id, project, since, until, error, sqlState } = options;
  const projectId = project === undefined ? undefined : (await findProject(store, project)).projectId;
  const now = since || until ? await store.now() : new Date(0);
  return { deadLetterId: id, projectId, since: since?.(now), until: until?.(now), error, sqlState };
}

/** Describes the filter for the audit log, without the text of an error, which may quote customer data. */
function toAudited(
  { id, project, error }: FilterOptions,
  { since, until, sqlState }: DeadLetterFilter,
): Pick<AuditRecord, 'target' | 'details'> {
  const details = {
    ...(project !== undefined && id !== undefined && { id }),
    ...(since && { since: since.toISOString() }),
    ...(until && { until: until.toISOString() }),
    ...(sqlState !== undefined && { sqlState }),
    ...(error !== undefined && { byError: true }),
  };
  return { target: project ?? id, ...(Object.keys(details).length > 0 && { details }) };
}

function parseText(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

function parseSqlState(text: string): string {
  if (!isSqlState(text)) {
    throw new InvalidArgumentError('It must have 5 characters, such as 22021, or 2 for a class.');
  }
  return text.toUpperCase();
}

const toLetters = (count: number): string => `${count} dead ${count === 1 ? 'letter' : 'letters'}`;
