import { runProcess } from '@opm/runtime';
import { compose, WORKER_ENV } from './compose.js';

await runProcess({ name: 'worker', env: process.env, spec: WORKER_ENV, start: compose });
