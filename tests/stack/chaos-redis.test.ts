import { describeChaos } from './chaos.js';

/** Draws an emptied store, a full disk, clocks that jump, a trigger that refuses customers, and a kill. */
describeChaos('redis', { seed: 1797 });
