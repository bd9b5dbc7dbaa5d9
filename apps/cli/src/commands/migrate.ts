import { Command } from 'commander';
import { type PrintOptions, print } from '../print.js';
import { migrate } from '../stack/migrate.js';
import { findStores } from '../with-store.js';

export function migrateCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('migrate')
    .option('--json', 'print JSON')
    .description('Bring the database up to date: our tables, and those of the queue where it lives in PostgreSQL.')
    .action(async (options: PrintOptions) => {
      await migrate((await findStores(env)).DATABASE_URL);
      print(options, { upToDate: true }, ['The database is up to date.']);
    });
}
