import type { AppRole } from '@opm/store';
import { Command, InvalidArgumentError } from 'commander';
import { type PrintOptions, print } from '../print.js';
import type { UpOptions } from '../stack/up.js';
import { UserError } from '../user-error.js';
import { dataDirOf, findStores } from '../with-store.js';

export function upCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('up')
    .option('--port <port>', 'port of the API', parsePort, 3000)
    .option('--console-port <port>', 'port of the Bull dashboard', parsePort, 3001)
    .option('--host <address>', 'address to listen on', parseHost, '127.0.0.1')
    .option('--data-dir <folder>', 'folder of the embedded database and the demo key', dataDirOf(env))
    .description(
      'Run everything in this terminal: PostgreSQL, migrations, a demo project, ingress, worker and console.',
    )
    .action(async (options: UpOptions) => {
      const { up } = await import('../stack/up.js'); // lazily: the queue package loads slowly
      await up(options, env);
    });
}

/** Rejects an empty address, such as that of an unset variable: the server would listen on all addresses. */
function parseHost(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port < 1 || port > 65_535)
    throw new InvalidArgumentError('It must be a number from 1 to 65535.');
  return port;
}

type MigrateOptions = PrintOptions & { appRole?: string };

export function migrateCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('migrate')
    .option(
      '--app-role <name>',
      'let this role read and write rows only, for processes with the queue on Redis; ' +
        'creates the role if it does not exist, and sets its password to APP_ROLE_PASSWORD',
      parseRole,
    )
    .option('--json', 'print JSON')
    .description('Bring the database up to date: the tables of OPM, and those of a queue in PostgreSQL.')
    .action(async ({ appRole, ...options }: MigrateOptions) => {
      const { DATABASE_URL, APP_ROLE_PASSWORD } = await findStores(env);
      const { migrate } = await import('../stack/migrate.js'); // lazily: the queue package loads slowly
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

/** @throws UserError with the reason if PostgreSQL or the store refuses the grant */
async function grant(databaseUrl: string, role: AppRole): Promise<void> {
  const { grantToAppRole, StoreError } = await import('@opm/store');
  try {
    await grantToAppRole(databaseUrl, role);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const passwordless = role.password === undefined ? ' without APP_ROLE_PASSWORD' : '';
    throw new UserError(`--app-role ${role.name}${passwordless}: ${error.message}`);
  }
}
