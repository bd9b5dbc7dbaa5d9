import { createRequire } from 'node:module';
import { inspect } from 'node:util';
import { ignoreUnheardPgErrors } from '@opm/runtime';
import { Command } from 'commander';
import { burstCommand } from './commands/burst.js';
import { customersCommand } from './commands/customers.js';
import { deadLettersCommand } from './commands/dead-letters.js';
import { keysCommand } from './commands/keys.js';
import { projectsCommand } from './commands/projects.js';
import { migrateCommand, upCommand } from './commands/stack.js';
import { statusCommand } from './commands/status.js';
import { escapeLines } from './print.js';
import { UserError } from './user-error.js';

const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

/** Builds the command line `opm`. A command throws UserError for a problem that the user can fix. */
function buildProgram(env: NodeJS.ProcessEnv): Command {
  return new Command('opm')
    .description('Run and operate OPM Partners API.')
    .version(version)
    .addHelpText(
      'after',
      '\nWithout DATABASE_URL, commands use the stack that `opm up` runs in ./.data, or in the folder OPM_DATA_DIR.',
    )
    .showHelpAfterError()
    .addCommand(upCommand(env))
    .addCommand(migrateCommand(env))
    .addCommand(statusCommand(env))
    .addCommand(projectsCommand(env))
    .addCommand(keysCommand(env))
    .addCommand(customersCommand(env))
    .addCommand(deadLettersCommand(env))
    .addCommand(burstCommand(env));
}

ignoreUnheardPgErrors();
try {
  await buildProgram(process.env).parseAsync(process.argv);
} catch (error) {
  console.error(escapeLines(error instanceof UserError ? `opm: ${error.message}` : inspect(error)));
  process.exitCode = 1;
}
