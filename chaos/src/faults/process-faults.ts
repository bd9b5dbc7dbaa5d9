import { setTimeout as delay } from 'node:timers/promises';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import type { Victim } from '../stack/victim.js';
import { EVERYTHING, type Fault, type FaultKind } from './fault.js';

/** Processes that end or hang, alone or all together. */
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
