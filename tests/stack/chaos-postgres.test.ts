import { describeChaos } from './chaos.js';

describeChaos('postgres', { seed: 38632 });
