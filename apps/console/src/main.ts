import { runProcess } from '@opm/runtime';
import { compose } from './compose.js';
import { CONSOLE_ENV } from './config.js';

await runProcess({ name: 'console', env: process.env, spec: CONSOLE_ENV, start: compose });
