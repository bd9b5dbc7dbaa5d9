import { createRequire } from 'node:module';
import { Command } from 'commander';
import { burstCommand } from './commands/burst.js';
import { customersCommand } from './commands/customers.js';
import { deadLettersCommand } from './commands/dead-letters.js';
import { keysCommand } from './commands/keys.js';
import { migrateCommand } from './commands/migrate.js';
import { projectsCommand } from './commands/projects.js';
import { upCommand } from './commands/up.js';

const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

/** The command line `opm`. Commands throw UserError for what the user can mend. */
export function buildProgram(env: NodeJS.ProcessEnv): Command {
  return new Command('opm')
    .description('Runs and operates OPM Partners API.')
    .version(version)
    .addHelpText(
      'after',
      '\nWithout DATABASE_URL, commands talk to the stack that `opm up` runs in ./.data, or in the folder OPM_DATA_DIR.',
    )
    .showHelpAfterError()
    .addCommand(upCommand(env))
    .addCommand(migrateCommand(env))
    .addCommand(projectsCommand(env))
    .addCommand(keysCommand(env))
    .addCommand(customersCommand(env))
    .addCommand(deadLettersCommand(env))
    .addCommand(burstCommand(env));
}
