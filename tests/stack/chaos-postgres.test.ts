import { describeChaos } from './chaos.js';

/**
 * With this seed: an emptied store, a full disk, a clock that is put back, a trigger that rejects customers, a kill and
 * a stop.
 */
describeChaos('postgres', { seed: 1361 });
