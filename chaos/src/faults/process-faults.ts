import { setTimeout as delay } from 'node:timers/promises';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import type { Victim } from '../stack/victim.js';

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
