import { Fault } from '@opm/contract';
import type { EntryQueue } from '@opm/queue';
import { SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError } from 'commander';
import { addFilterOptions, type FilterOptions, hasFilter, toFilter } from '../dead-letters/filter-options.js';
import { type Replayed, ReplayInterrupted, replay } from '../dead-letters/replay.js';
import { parseBigId, parseWholeNumber } from '../parse-whole-number.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { toOperatorText, withQueue } from '../with-queue.js';
import { withStore } from '../with-store.js';

export function deadLettersCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('dead-letters')
    .description('Acknowledged entries that could not be persisted.')
    .addCommand(listCommand(env))
    .addCommand(showCommand(env))
    .addCommand(countCommand(env))
    .addCommand(replayCommand(env))
    .addCommand(discardCommand(env));
}

function listCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('list'))
    .option('--limit <n>', 'how many at most', parseWholeNumber, 50)
    .option('--json', 'print JSON')
    .description('List them, the newest first, without their payloads.')
    .action(async (options: PrintOptions & FilterOptions & { limit: number }) => {
      const list = await withStore(env, async (store) =>
        store.deadLetters.list(await toFilter(store, options), { limit: options.limit }),
      );
      print(options, list, toTable(list));
    });
}

function showCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('show')
    .argument('<id>', 'from `opm dead-letters list`', parseBigId)
    .option('--json', 'print JSON')
    .description('Show one with its payload: all that the partner sent.')
    .action(async (id: string, options: PrintOptions) => {
      const letter = await withStore(env, (store) => store.deadLetters.find(id));
      if (!letter) throw new UserError(`there is no dead letter ${id}: see \`opm dead-letters list\``);
      const rows = Object.entries(letter).map(([column, value]) => ({
        column,
        value: column === 'payload' ? JSON.stringify(value) : value,
      }));
      print(options, letter, toTable(rows));
    });
}

function countCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('count'))
    .option('--json', 'print JSON')
    .description('Count them, by project and SQLSTATE.')
    .action(async (options: PrintOptions & FilterOptions) => {
      const { count, groups } = await countLetters(env, options);
      print(options, { count, groups }, [...toTable(groups), '', toLetters(count)]);
    });
}

function replayCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('replay'))
    .option('--rate <n>', 'letters per second at most', parseRate, 200)
    .option('--dry-run', 'only count them')
    .option('--force', 'also when no worker takes jobs at present')
    .option('--json', 'print JSON')
    .description('Queue them once more, with the versions that they had: newer data stays. Ctrl-C ends it cleanly.')
    .addHelpText('after', 'Without a running stack it needs the variables of the workers: DATABASE_URL, REDIS_URL, …')
    .action(async (options: PrintOptions & FilterOptions & ReplayFlags) => {
      if (options.dryRun) return dryRun(env, options, 'replayed, those among them that can be read as entries');
      const { replayed, skipped, isStopped } = await replayWithBar(env, options);
      const lines = [`Queued ${toLetters(replayed)} once more.`];
      if (skipped === 1) lines.push('1 dead letter cannot be read as an entry, and stays.');
      if (skipped > 1) lines.push(`${skipped} dead letters cannot be read as entries, and stay.`);
      if (isStopped) lines.push('Stopped; the others are dead letters still.');
      print(options, { replayed, skipped, ...(isStopped && { isStopped }) }, lines);
      if (isStopped) process.exitCode = 130;
    });
}

function discardCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('discard'))
    .option('--all', 'all of them, where no filter is given')
    .option('--dry-run', 'only count them')
    .option('--json', 'print JSON')
    .description('Delete them for good.')
    .action(async (options: PrintOptions & FilterOptions & { all?: true; dryRun?: true }) => {
      if (!options.all && !hasFilter(options)) {
        throw new UserError(
          'say which ones: --id, --project, --since, --until, --error, --sql-state, or --all for all of them',
        );
      }
      if (options.dryRun) return dryRun(env, options, 'discarded');
      const discarded = await withStore(env, async (store) =>
        store.deadLetters.discard(await toFilter(store, options)),
      );
      print(options, { discarded }, [`Discarded ${toLetters(discarded)}.`]);
    });
}

async function countLetters(env: NodeJS.ProcessEnv, options: FilterOptions) {
  const groups = await withStore(env, async (store) => store.deadLetters.count(await toFilter(store, options)));
  return { count: sum(groups), groups };
}

async function dryRun(env: NodeJS.ProcessEnv, options: PrintOptions & FilterOptions, what: string): Promise<void> {
  const { count } = await countLetters(env, options);
  print(options, { dryRun: true, count }, [`${toLetters(count)} would be ${what}.`]);
}

type ReplayFlags = { rate: number; dryRun?: true; force?: true };

/** The bar is drawn on stderr, and only on a terminal. */
async function replayWithBar(
  env: NodeJS.ProcessEnv,
  options: FilterOptions & ReplayFlags,
): Promise<Replayed & { isStopped: boolean }> {
  return withStore(env, async (store) => {
    const filter = await toFilter(store, options);
    const total = sum(await store.deadLetters.count(filter));
    return withQueue(env, async (queue, shards) => {
      if (!options.force) await assertWorked(queue);
      const stop = new AbortController();
      const onInterrupt = () => stop.abort();
      process.once('SIGINT', onInterrupt);
      const bar = new SingleBar({ format: '[{bar}] {value} of {total}, {eta_formatted} left', etaBuffer: 50 });
      bar.start(total, 0);
      try {
        const done = await replay({
          deadLetters: store.deadLetters,
          queue,
          shards,
          filter,
          rate: options.rate,
          onProgress: (handled) => bar.increment(handled),
          signal: stop.signal,
        });
        return { ...done, isStopped: stop.signal.aborted };
      } catch (error) {
        if (!(error instanceof ReplayInterrupted)) throw error;
        throw new UserError(
          `${toReason(error.cause)}; ${toLetters(error.done.replayed)} had been queued, the others are dead letters still`,
        );
      } finally {
        bar.stop();
        process.off('SIGINT', onInterrupt);
      }
    });
  });
}

/** Entries that nobody reads would be neither rows nor dead letters. */
async function assertWorked(queue: EntryQueue): Promise<void> {
  const idle = await queue.findIdle();
  if (idle.length === 0) return;
  throw new UserError(
    `no worker takes jobs from ${idle.join(', ')}: set REDIS_URL, REDIS_PREFIX and QUEUE_SHARDS as the workers have them, ` +
      'start one, or say --force',
  );
}

function toReason(error: unknown): string {
  const { message, cause } = error as Error;
  return cause instanceof Fault ? toOperatorText(cause) : message;
}

const sum = (groups: { count: number }[]): number => groups.reduce((total, { count }) => total + count, 0);

const toLetters = (count: number): string => `${count} dead ${count === 1 ? 'letter' : 'letters'}`;

function parseRate(text: string): number {
  const rate = parseWholeNumber(text);
  if (rate === 0) throw new InvalidArgumentError('It must be at least 1.');
  return rate;
}
