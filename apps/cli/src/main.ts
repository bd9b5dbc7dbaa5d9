import { createRequire } from 'node:module';
import { inspect } from 'node:util';
import addCompletion from '@bomb.sh/tab/commander';
import { Command, CommanderError } from 'commander';
import { burstCommand } from './commands/burst.js';
import { customersCommand } from './commands/customers.js';
import { deadLettersCommand } from './commands/dead-letters.js';
import { keysCommand } from './commands/keys.js';
import { auditCommand, operatorsCommand } from './commands/operators.js';
import { projectsCommand } from './commands/projects.js';
import { migrateCommand, upCommand } from './commands/stack.js';
import { restoredCommand, statusCommand } from './commands/status.js';
import { escapeLines, toJson } from './print.js';
import { EXIT_CODES, readSettings, UserError } from './user-error.js';

const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

/** Builds the command line `opm`. A command throws UserError for a problem that the user can fix. */
function buildProgram(env: NodeJS.ProcessEnv): Command {
  return new Command('opm')
    .description('Run and operate OPM Partners API.')
    .version(version)
    .hook('preAction', (_program, command) => prepare(env, command.name()))
    .addHelpText(
      'after',
      '\nWithout DATABASE_URL, commands use the stack that `opm up` runs in ./.data, or in the folder OPM_DATA_DIR.' +
        '\n\nExit codes: 1 failed, 2 wrong usage, 3 not found, 4 a store, the workers or the stack are not available, ' +
        '130 stopped.' +
        '\nWith --json, an error is a line of JSON on stderr: {"error":"not-found","message":"…"}.',
    )
    .addCommand(upCommand(env))
    .addCommand(migrateCommand(env))
    .addCommand(statusCommand(env))
    .addCommand(projectsCommand(env))
    .addCommand(keysCommand(env))
    .addCommand(customersCommand(env))
    .addCommand(deadLettersCommand(env))
    .addCommand(operatorsCommand(env))
    .addCommand(auditCommand(env))
    .addCommand(restoredCommand(env))
    .addCommand(burstCommand(env));
}

const STORES = ['DATABASE_URL', 'REDIS_URL'];
/** The secrets of the commands that use more than the stores. */
const SECRETS: Record<string, string[]> = { up: [...STORES, 'CONSOLE_PASSWORD'], burst: ['OPM_KEY'] };

/** Replaces the command's NAME_FILE variables by the secrets in the files. Imports lazily: --help needs none of it. */
async function prepare(env: NodeJS.ProcessEnv, command: string): Promise<void> {
  const { default: pg } = await import('pg');
  const { ignoreUnheardPgErrors } = await import('@opm/core');
  ignoreUnheardPgErrors(pg.Client);
  const names = SECRETS[command] ?? STORES;
  Object.assign(env, await readSettings(({ readSecretFiles }) => readSecretFiles(env, names)));
}

/** Makes commander throw its errors instead of ending the process. With --json, it prints none of them. */
function throwErrors(command: Command, isJson: boolean): void {
  command.exitOverride();
  if (isJson) command.configureOutput({ outputError: () => {} });
  else command.showHelpAfterError('(add --help for more)');
  for (const subcommand of command.commands) throwErrors(subcommand, isJson);
}

/** Prints the error. @returns the exit code */
function report(error: unknown, isJson: boolean): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0; // --help or --version
    if (isJson) console.error(toJson({ error: 'usage', message: error.message.replace(/^error: /, '') }));
    return EXIT_CODES.usage;
  }
  const { kind, message } = error instanceof UserError ? error : { kind: 'failed' as const, message: inspect(error) };
  const text = error instanceof UserError ? `opm: ${message}` : message;
  console.error(isJson ? toJson({ error: kind, message }) : escapeLines(text));
  return EXIT_CODES[kind];
}

/**
 * Ends a command if the reader of its output, such as `head`, closes the pipe. Some commands handle errors themselves.
 */
function onOutputError(error: NodeJS.ErrnoException): void {
  if (process.stdout.listenerCount('error') > 1) return;
  if (error.code !== 'EPIPE') throw error;
  process.exit();
}

process.stdout.on('error', onOutputError);
const isJson = process.argv.includes('--json');
const program = buildProgram({ ...process.env });
throwErrors(program, isJson);
addCompletion(program); // adds the command `complete`, which takes over the settings of `throwErrors`
try {
  await program.parseAsync(process.argv);
} catch (error) {
  process.exitCode = report(error, isJson);
}
