import { setTimeout as delay } from 'node:timers/promises';
import { waitFor } from '@opm/testkit';
import type { Random } from '../random.js';
import { CAN_SHIM, type HostShim } from '../stack/host-shim.js';
import type { Stack } from '../stack/stack.js';
import type { StoreHost } from '../stack/victim.js';
import type { Fault, FaultKind } from './fault.js';

const MINUTE_MS = 60_000;
const MAX_JUMP_MS = 120 * MINUTE_MS;

/** Hosts whose clock jumps or whose disk is full. */
export const HOST_FAULTS: FaultKind[] = CAN_SHIM
  ? [
      { weight: 6, draw: (stack, random) => toJump(random.pick(findHosts(stack)), random) },
      {
        weight: 3,
        draw: ({ postgres, redis }, random) => toFillDisk(random.pick([postgres, redis ?? postgres]), random),
      },
    ]
  : [];

/** Whatever has a clock of its own: of a cluster each master, with its replica. */
const findHosts = ({ postgres, redis, cluster, ingresses, workers }: Stack) => [
  postgres,
  ...(redis ? [redis] : []),
  ...(cluster?.pairs ?? []),
  ...ingresses,
  ...workers,
];

function toJump({ name, shim }: { name: string; shim: HostShim }, random: Random): Fault {
  const jumpMs = random.between(MINUTE_MS, MAX_JUMP_MS) * (random.chance(50) ? 1 : -1);
  const forMs = random.between(500, 6_000);
  return {
    name: `put the clock ${jumpMs > 0 ? 'forward' : 'back'} of ${name}`,
    victim: name,
    async run() {
      await shim.setClock(jumpMs);
      await delay(forMs);
      await shim.setClock(0);
    },
  };
}

/** A store may end by itself while it cannot write. */
function toFillDisk(store: StoreHost, random: Random): Fault {
  const forMs = random.between(500, 3_000);
  return {
    name: `fill the disk of ${store.name}`,
    victim: store.name,
    async run() {
      await store.shim.setDiskFull(true);
      await delay(forMs);
      await store.shim.setDiskFull(false);
      const isBack = async () => {
        await store.start();
        return store.answers();
      };
      await waitFor(isBack, { description: `${store.name} to answer after its disk was full` });
    },
  };
}
