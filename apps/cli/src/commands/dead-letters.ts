import { Command } from 'commander';
import { parseWholeNumber } from '../parse-whole-number.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, withStore } from '../with-store.js';

export function deadLettersCommand(env: NodeJS.ProcessEnv): Command {
  const deadLetters = new Command('dead-letters').description('Acknowledged entries that PostgreSQL refused.');

  deadLetters
    .command('list')
    .option('--project <name>', 'only those of this project')
    .option('--limit <n>', 'how many at most', parseWholeNumber, 50)
    .option('--json', 'print JSON')
    .description('List them, the newest first, without what partners sent.')
    .action(async (options: PrintOptions & { project?: string; limit: number }) => {
      const list = await withStore(env, async (store) => {
        const project = options.project === undefined ? undefined : await findProject(store, options.project);
        return store.deadLetters.list({ projectId: project?.projectId }, { limit: options.limit });
      });
      print(options, list, toTable(list));
    });

  deadLetters
    .command('show')
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

  return deadLetters;
}
