import { randomInt } from 'node:crypto';
import getPort from 'get-port';

const CANDIDATES = 20;

/**
 * A loopback port that was free a moment ago; whoever binds it must be ready to lose the race. It is below those that
 * systems give to outgoing connections, and drawn at random, so that the race is rarely lost.
 */
export const findFreePort = (): Promise<number> =>
  getPort({ host: '127.0.0.1', port: Array.from({ length: CANDIDATES }, () => randomInt(11_000, 32_000)) });
