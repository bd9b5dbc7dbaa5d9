import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import { createClusterFaults } from './cluster-faults.js';
import { EMPTY_STORE } from './empty-store.js';
import { EVERYTHING, type Fault } from './fault.js';
import { HOST_FAULTS } from './host-faults.js';
import { LINK_FAULTS } from './link-faults.js';
import { POSTGRES_FAULTS } from './postgres-faults.js';
import { PROCESS_FAULTS } from './process-faults.js';
import { createRedisFaults } from './redis-faults.js';

/** In a quarter of the rounds two things go wrong at the same time. */
const PERCENT_PAIRS = 25;

/** Draws what goes wrong next: one fault or two, at most as many as are left. */
export function createFaultDraw(stack: Stack, random: Random): (left: number) => Fault[] {
  const redisFaults = stack.redis ? createRedisFaults(stack.redis) : [];
  const clusterFaults = stack.cluster ? createClusterFaults(stack.cluster) : [];
  const kinds = [
    ...[...PROCESS_FAULTS, ...LINK_FAULTS, ...POSTGRES_FAULTS, ...HOST_FAULTS, EMPTY_STORE],
    ...[...redisFaults, ...clusterFaults],
  ];
  const weighted = kinds.flatMap((kind) => Array.from({ length: kind.weight }, () => kind));
  const draw = () => random.pick(weighted).draw(stack, random);
  return (left) => {
    const first = draw();
    if (left < 2 || !random.chance(PERCENT_PAIRS)) return [first];
    let second = draw();
    while (areNear(first, second)) second = draw();
    return first.victim === EVERYTHING ? [first] : [first, second];
  };
}

/** What is done to the same process or connection would hinder one another. */
function areNear({ victim: a }: Fault, { victim: b }: Fault): boolean {
  return b === EVERYTHING || a.includes(b) || b.includes(a);
}
