import { Command, InvalidArgumentError, Option } from 'commander';
import { type PrintOptions, print } from '../print.js';
import type { UpOptions } from '../stack/up.js';
import { dataDirOf, findStores } from '../with-store.js';

export function upCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('up')
    .option('--port <port>', 'port of the API', parsePort, 3000)
    .option('--console-port <port>', 'port of the console', parsePort, 3001)
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

export function migrateCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('migrate')
    .addOption(new Option('--app-role <name>').argParser(refuseAppRole).hideHelp())
    .option('--json', 'print JSON')
    .description('Bring the database up to date: the tables of OPM, and those of a queue in PostgreSQL.')
    .action(async (options: PrintOptions) => {
      const { DATABASE_URL } = await findStores(env);
      const { migrate } = await import('../stack/migrate.js'); // lazily: the queue package loads slowly
      await migrate(DATABASE_URL);
      print(options, { upToDate: true }, ['The database is up to date.']);
    });
}

/**
 * Refuses an option of earlier releases. If it were ignored, a script would go on as if the role had its privileges.
 */
function refuseAppRole(): never {
  throw new InvalidArgumentError(
    'It is no longer supported: deploy/postgres/roles.sql and grants.sql replace it, see docs/postgresql.md, "Roles".',
  );
}
