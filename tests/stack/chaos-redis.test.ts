import { describeChaos } from './chaos.js';

/** Draws kills of every kind of process, a freeze, Redis filled, and a connection that is cut or slowed down. */
describeChaos('redis', { seed: 38632 });
