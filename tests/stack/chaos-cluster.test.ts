import { describeChaos } from './chaos.js';

/** Draws masters that are killed and frozen until their replicas take over, one that hands over, and a killed replica. */
describeChaos('cluster', { seed: 4665 });
