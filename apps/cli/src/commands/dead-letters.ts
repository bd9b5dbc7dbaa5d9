import { Command } from 'commander';
import { countAll, toLetters } from '../dead-letters/count.js';
import { addFilterOptions, type FilterOptions, hasFilter, toFilter } from '../dead-letters/filter-options.js';
import type { ReplayFlags } from '../dead-letters/replay-with-bar.js';
import { parseBigId, parsePositive, parseWholeNumber } from '../parse-whole-number.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
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
    .option('--rate <n>', 'letters per second at most', parsePositive, 200)
    .option('--dry-run', 'only count them')
    .option('--force', 'also when no worker takes jobs at present')
    .option('--json', 'print JSON')
    .description('Queue them once more, with the versions that they had: newer data stays. Ctrl-C ends it cleanly.')
    .addHelpText('after', '\nWithout a running stack it needs the variables of the workers: DATABASE_URL, REDIS_URL, …')
    .action(async (options: PrintOptions & ReplayFlags) => {
      if (options.dryRun) return dryRun(env, options, 'replayed, those among them that can be read as entries');
      // Only now, for the queue takes longer to load than all the rest.
      const { replayWithBar } = await import('../dead-letters/replay-with-bar.js');
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
  return { count: countAll(groups), groups };
}

async function dryRun(env: NodeJS.ProcessEnv, options: PrintOptions & FilterOptions, what: string): Promise<void> {
  const { count } = await countLetters(env, options);
  print(options, { dryRun: true, count }, [`${toLetters(count)} would be ${what}.`]);
}
