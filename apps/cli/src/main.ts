import { inspect } from 'node:util';
import { outliveSessions } from '@opm/runtime';
import { escapeLines } from './print.js';
import { buildProgram } from './program.js';
import { UserError } from './user-error.js';

outliveSessions();
try {
  await buildProgram(process.env).parseAsync(process.argv);
} catch (error) {
  console.error(escapeLines(error instanceof UserError ? `opm: ${error.message}` : inspect(error)));
  process.exitCode = 1;
}
