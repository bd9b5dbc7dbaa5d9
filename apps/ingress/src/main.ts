import { runProcess } from '@opm/runtime';
import { compose } from './compose.js';
import { INGRESS_ENV } from './config.js';

await runProcess({ name: 'ingress', env: process.env, spec: INGRESS_ENV, start: compose });
