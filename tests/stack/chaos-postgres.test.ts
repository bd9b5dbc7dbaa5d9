import { describeChaos } from './chaos.js';

/** Draws an emptied store, a full disk, a clock that is put back, a trigger that refuses customers, a kill and a stop. */
describeChaos('postgres', { seed: 1361 });
