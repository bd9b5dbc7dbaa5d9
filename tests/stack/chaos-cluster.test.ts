import { describeChaos } from './chaos.js';

/** Draws an emptied store, a master that is killed, one that is frozen, one that hands over, and clocks that are put back. */
describeChaos('cluster', { seed: 12923 });
