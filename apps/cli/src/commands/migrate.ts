import { type AppRole, grantToAppRole, StoreError } from '@opm/store';
import { Command, InvalidArgumentError } from 'commander';
import { type PrintOptions, print } from '../print.js';
import { UserError } from '../user-error.js';
import { findStores } from '../with-store.js';

type MigrateOptions = PrintOptions & { appRole?: string };

export function migrateCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('migrate')
    .option(
      '--app-role <name>',
      'let this role read and write rows, and no more: the one that the processes run as, with the queue on Redis; ' +
        'it gets the password in APP_ROLE_PASSWORD, and is made where it is not there',
      parseRole,
    )
    .option('--json', 'print JSON')
    .description('Bring the database up to date: our tables, and those of the queue where it lives in PostgreSQL.')
    .action(async ({ appRole, ...options }: MigrateOptions) => {
      const { DATABASE_URL, APP_ROLE_PASSWORD } = await findStores(env);
      const { migrate } = await import('../stack/migrate.js'); // with the queue, which takes long to load
      await migrate(DATABASE_URL);
      if (appRole) await grant(DATABASE_URL, { name: appRole, password: APP_ROLE_PASSWORD || undefined });
      const granted = appRole ? [`The role ${appRole} can read and write rows.`] : [];
      print(options, { upToDate: true, appRole }, ['The database is up to date.', ...granted]);
    });
}

function parseRole(name: string): string {
  if (name === '') throw new InvalidArgumentError('It must not be empty.');
  return name;
}

/** @throws UserError with what PostgreSQL or the store says no to */
async function grant(databaseUrl: string, role: AppRole): Promise<void> {
  try {
    await grantToAppRole(databaseUrl, role);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const passwordless = role.password === undefined ? ' without APP_ROLE_PASSWORD' : '';
    throw new UserError(`--app-role ${role.name}${passwordless}: ${error.message}`);
  }
}
