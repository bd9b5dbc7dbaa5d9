import { runProcess } from '@opm/runtime';
import { compose } from './compose.js';
import { WORKER_ENV } from './config.js';

await runProcess({ name: 'worker', env: process.env, spec: WORKER_ENV, start: compose });
