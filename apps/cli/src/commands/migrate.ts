import { Command } from 'commander';
import { type PrintOptions, print } from '../print.js';
import { findStores } from '../with-store.js';

export function migrateCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('migrate')
    .option('--json', 'print JSON')
    .description('Bring the database up to date: our tables, and those of the queue where it lives in PostgreSQL.')
    .action(async (options: PrintOptions) => {
      const { migrate } = await import('../stack/migrate.js'); // with the queue, which takes long to load
      await migrate((await findStores(env)).DATABASE_URL);
      print(options, { upToDate: true }, ['The database is up to date.']);
    });
}
