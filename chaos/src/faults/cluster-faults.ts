import type { Random } from '../random.js';
import type { ClusterVictim, Pair } from '../stack/cluster-victim.js';
import type { Fault, FaultKind } from './fault.js';
import { toEnd, toFreeze } from './process-faults.js';
import { toEndConnections, toFill } from './redis-faults.js';

/** Both shorter and longer than what makes the other nodes hold one for dead, which is 2 s. */
const MAX_GONE_MS = 6_000;

/** Nodes that end, hang or change their parts, in one pair of master and replica at a time. */
export function createClusterFaults({ pairs }: ClusterVictim): FaultKind[] {
  const define = (weight: number, make: (pair: Pair, random: Random) => Omit<Fault, 'victim'>): FaultKind => ({
    weight,
    draw(_, random) {
      const pair = random.pick(pairs);
      return { ...make(pair, random), victim: pair.name };
    },
  });
  const goneMs = (random: Random) => random.between(0, MAX_GONE_MS);
  return [
    define(4, ({ master }, random) => toEnd('SIGKILL', master, goneMs(random))),
    define(1, ({ master }, random) => toEnd('SIGTERM', master, goneMs(random))),
    define(3, ({ master }, random) => toFreeze(master, goneMs(random))),
    define(2, ({ replica }, random) => toEnd('SIGKILL', replica, goneMs(random))),
    define(2, ({ replica }, random) => toFreeze(replica, goneMs(random))),
    define(3, ({ name, swap }) => ({ name: `swap ${name}`, run: swap })),
    define(1, ({ master: { name }, findMasterUrl }, random) => toFill(name, findMasterUrl, random)),
    define(1, ({ master: { name }, findMasterUrl }) => toEndConnections(name, findMasterUrl)),
  ];
}
