import { SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError } from 'commander';
import { addFilterOptions, type FilterOptions, hasFilter, toFilter } from '../dead-letters/filter-options.js';
import { type Replayed, replay } from '../dead-letters/replay.js';
import { parseWholeNumber } from '../parse-whole-number.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { withQueue } from '../with-queue.js';
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
    .description('List them, the newest first, without what partners sent.')
    .action(async (options: PrintOptions & FilterOptions & { limit: number }) => {
      const list = await withStore(env, async (store) =>
        store.deadLetters.list(await toFilter(store, options), { limit: options.limit }),
      );
      print(options, list, toTable(list));
    });
}

function showCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('show')
    .argument('<id>', 'from `opm dead-letters list`', parseWholeNumber)
    .option('--json', 'print JSON')
    .description('Show one with all that the partner sent.')
    .action(async (id: number, options: PrintOptions) => {
      const letter = await withStore(env, (store) => store.deadLetters.find(String(id)));
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
      const groups = await withStore(env, async (store) => store.deadLetters.count(await toFilter(store, options)));
      const count = sum(groups);
      print(options, { count, groups }, [...toTable(groups), '', toLetters(count)]);
    });
}

function replayCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('replay'))
    .option('--rate <n>', 'letters per second at most', parseRate, 200)
    .option('--dry-run', 'only count them')
    .option('--json', 'print JSON')
    .description('Queue them once more, with the versions that they had: newer data stays.')
    .action(async (options: PrintOptions & FilterOptions & { rate: number; dryRun?: true }) => {
      if (options.dryRun) return dryRun(env, options, 'replayed');
      const { replayed, skipped } = await replayWithBar(env, options);
      const lines = [`Queued ${toLetters(replayed)} once more.`];
      if (skipped === 1) lines.push('1 dead letter cannot be read as an entry, and stays.');
      if (skipped > 1) lines.push(`${skipped} dead letters cannot be read as entries, and stay.`);
      print(options, { replayed, skipped }, lines);
    });
}

function discardCommand(env: NodeJS.ProcessEnv): Command {
  return addFilterOptions(new Command('discard'))
    .option('--all', 'all of them, where no other option says which')
    .option('--dry-run', 'only count them')
    .option('--json', 'print JSON')
    .description('Delete them for good.')
    .action(async (options: PrintOptions & FilterOptions & { all?: true; dryRun?: true }) => {
      if (!options.all && !hasFilter(options)) {
        throw new UserError('say which ones: --id, --project, --since, --until, --error, or --all for all of them');
      }
      if (options.dryRun) return dryRun(env, options, 'discarded');
      const discarded = await withStore(env, async (store) =>
        store.deadLetters.discard(await toFilter(store, options)),
      );
      print(options, { discarded }, [`Discarded ${toLetters(discarded)}.`]);
    });
}

async function dryRun(env: NodeJS.ProcessEnv, options: PrintOptions & FilterOptions, what: string): Promise<void> {
  const groups = await withStore(env, async (store) => store.deadLetters.count(await toFilter(store, options)));
  const count = sum(groups);
  print(options, { dryRun: true, count }, [`${toLetters(count)} would be ${what}.`]);
}

/** The bar is drawn on stderr, and only on a terminal. */
async function replayWithBar(env: NodeJS.ProcessEnv, options: FilterOptions & { rate: number }): Promise<Replayed> {
  return withStore(env, async (store) => {
    const filter = await toFilter(store, options);
    const total = sum(await store.deadLetters.count(filter));
    const bar = new SingleBar({ format: '[{bar}] {value} of {total}, {eta_formatted} left', hideCursor: true });
    return withQueue(env, async (queue, shards) => {
      bar.start(total, 0);
      const onProgress = (handled: number) => bar.increment(handled);
      return replay({ deadLetters: store.deadLetters, queue, shards, filter, rate: options.rate, onProgress }).finally(
        () => bar.stop(),
      );
    });
  });
}

const sum = (groups: { count: number }[]): number => groups.reduce((total, { count }) => total + count, 0);

const toLetters = (count: number): string => `${count} dead ${count === 1 ? 'letter' : 'letters'}`;

function parseRate(text: string): number {
  const rate = parseWholeNumber(text);
  if (rate === 0) throw new InvalidArgumentError('It must be at least 1.');
  return rate;
}
