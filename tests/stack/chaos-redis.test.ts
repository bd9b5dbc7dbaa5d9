import { describeChaos } from './chaos.js';

/** With this seed: an emptied store, a full disk, clocks that jump, a trigger that rejects customers, and a kill. */
describeChaos('redis', { seed: 1797 });
