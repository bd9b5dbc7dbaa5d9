import { setTimeout as delay } from 'node:timers/promises';
import { type TcpProxy, waitFor } from '@opm/testkit';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import { CAN_SHIM, type HostShim, type StoreHost, type Victim } from '../stack/victim.js';

/** A fault that lasts for a while and is then repaired. */
export type Fault = {
  /** For example `kill Redis`. */
  name: string;
  /** What the fault affects. Two simultaneous faults affect different victims. */
  victim: string;
  /** Injects the fault, waits, and repairs it. Rejects if it cannot be repaired. */
  run(): Promise<void>;
};

/** The victim of a fault that excludes every other one. */
export const EVERYTHING = 'everything';

/** A kind of fault, which draws its victim. */
export type FaultKind = {
  /** Relative frequency. */
  weight: number;
  draw(stack: Stack, random: Random): Fault;
};

/** Processes that exit or hang, one of them or all. */
export const PROCESS_FAULTS: FaultKind[] = [
  { weight: 6, draw: (stack, random) => toEnd('SIGKILL', drawVictim(stack, random), random.between(0, 2_000)) },
  { weight: 4, draw: (stack, random) => toEnd('SIGTERM', drawVictim(stack, random), random.between(0, 2_000)) },
  { weight: 4, draw: (stack, random) => toFreeze(drawVictim(stack, random), random.between(200, 5_000)) },
  { weight: 1, draw: (stack, random) => toEndAll(random.pick(['SIGKILL', 'SIGTERM'] as const), stack) },
];

const VERB = { SIGKILL: 'kill', SIGTERM: 'stop' };

function drawVictim({ ingresses, workers, postgres, redis }: Stack, random: Random): Victim {
  return random.pick<Victim>([...ingresses, ...workers, postgres, ...(redis ? [redis] : [])]);
}

export function toEnd(signal: keyof typeof VERB, victim: Victim, goneMs: number): Fault {
  return {
    name: `${VERB[signal]} ${victim.name}`,
    victim: victim.name,
    async run() {
      await victim.end(signal);
      await delay(goneMs);
      await victim.start();
    },
  };
}

export function toFreeze(victim: Victim, forMs: number): Fault {
  return {
    name: `freeze ${victim.name}`,
    victim: victim.name,
    async run() {
      await victim.freeze();
      await delay(forMs);
      await victim.thaw();
    },
  };
}

function toEndAll(signal: keyof typeof VERB, { ingresses, workers, stores }: Stack): Fault {
  const apps: Victim[] = [...ingresses, ...workers];
  return {
    name: `${VERB[signal]} ${EVERYTHING}`,
    victim: EVERYTHING,
    async run() {
      for (const group of [apps, stores]) await Promise.all(group.map((victim) => victim.end(signal)));
      await Promise.all([...stores, ...apps].map((victim) => victim.start()));
    },
  };
}

const MINUTE_MS = 60_000;
const MAX_JUMP_MS = 120 * MINUTE_MS;

/** Clocks that jump and disks that are full. */
export const HOST_FAULTS: FaultKind[] = CAN_SHIM
  ? [
      { weight: 6, draw: (stack, random) => toJump(random.pick(findHosts(stack)), random) },
      {
        weight: 3,
        draw: ({ postgres, redis }, random) => toFillDisk(random.pick([postgres, redis ?? postgres]), random),
      },
    ]
  : [];

/** Everything with its own clock. In a cluster each master shares a clock with its replica. */
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

/** Fills the disk. A store may exit by itself while it cannot write. */
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

/** Connections that are cut, silent or slow. */
export const LINK_FAULTS: FaultKind[] = [
  define(3, 'cut', async (proxy, forMs) => {
    await proxy.cut();
    await delay(forMs);
    await proxy.restore();
  }),
  define(2, 'silence', async (proxy, forMs) => {
    proxy.swallow();
    await delay(forMs);
  }),
  define(2, 'slow down', async (proxy, forMs) => {
    proxy.delay(Math.ceil(forMs / 15));
    await delay(forMs);
    proxy.delay(0);
  }),
];

function define(weight: number, verb: string, run: (proxy: TcpProxy, forMs: number) => Promise<void>): FaultKind {
  return {
    weight,
    draw({ links }, random) {
      const { name, proxy } = random.pick(links);
      const forMs = random.between(50, 3_000);
      return { name: `${verb} ${name}`, victim: name, run: () => run(proxy, forMs) };
    },
  };
}
