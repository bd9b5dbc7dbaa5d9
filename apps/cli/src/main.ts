import { outliveSessions } from '@opm/runtime';
import { buildProgram } from './program.js';
import { UserError } from './user-error.js';

outliveSessions();
try {
  await buildProgram(process.env).parseAsync(process.argv);
} catch (error) {
  console.error(error instanceof UserError ? `opm: ${error.message}` : error);
  process.exitCode = 1;
}
