import { describeChaos } from './chaos.js';

/**
 * With this seed: an emptied store, a killed master, a frozen one, one that hands over, and clocks that are put back.
 */
describeChaos('cluster', { seed: 12923 });
