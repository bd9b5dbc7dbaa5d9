import { runProcess } from '@opm/runtime';
import { CONSOLE_ENV, compose } from './compose.js';

await runProcess({ name: 'console', env: process.env, spec: CONSOLE_ENV, start: compose });
