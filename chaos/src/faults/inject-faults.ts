import { setTimeout as delay } from 'node:timers/promises';
import { waitUntilRecovered } from '../probe.js';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import { EVERYTHING, type Fault, HOST_FAULTS, LINK_FAULTS, PROCESS_FAULTS } from './faults.js';
import { POSTGRES_FAULTS } from './postgres-faults.js';
import { createClusterFaults, createRedisFaults, EMPTY_STORE } from './redis-faults.js';

/**
 * One fault, or two simultaneous ones. Times are in ms on the ledger's clock; a time that was not reached is missing.
 */
export type Round = { faults: string[]; startedAt: number; repairedAt?: number; recoveredAt?: number };

type Options = {
  faults: number;
  random: Random;
  /** How long the stack may take to recover after each round, in ms. */
  maxRecoveryMs: number;
  onStart: (round: Round) => void;
  /** Also called for a round whose faults could not be repaired; that round is the last one. */
  onEnd: (round: Round) => Promise<void>;
  signal: AbortSignal;
};

/** The longest pause between two rounds, so that requests are in flight at the next fault. */
const MAX_PAUSE_MS = 1_000;

/**
 * Injects faults in rounds; each round starts when the stack has recovered from the one before.
 * @throws Error if the stack does not recover
 */
export async function injectFaults(
  stack: Stack,
  { faults, random, maxRecoveryMs, onStart, onEnd, signal }: Options,
): Promise<void> {
  const draw = createFaultDraw(stack, random);
  for (let left = faults; left > 0 && !signal.aborted; ) {
    await delay(random.between(0, MAX_PAUSE_MS));
    const drawn = draw(left);
    const round: Round = { faults: drawn.map(({ name }) => name), startedAt: performance.now() };
    onStart(round);
    try {
      await Promise.all(drawn.map(runFault));
      round.repairedAt = performance.now();
      await waitUntilRecovered(stack, maxRecoveryMs);
      round.recoveredAt = performance.now();
    } finally {
      await onEnd(round);
    }
    left -= drawn.length;
  }
}

async function runFault({ name, run }: Fault): Promise<void> {
  await run().catch((cause: Error) => {
    throw new Error(`${name} could not be injected or repaired: ${cause.message}`, { cause });
  });
}

/** Share of the rounds with two simultaneous faults. */
const PERCENT_PAIRS = 25;

/** Returns a function that draws the next round: one or two faults, at most `left`. */
function createFaultDraw(stack: Stack, random: Random): (left: number) => Fault[] {
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
    while (interfere(first, second)) second = draw();
    return first.victim === EVERYTHING ? [first] : [first, second];
  };
}

/** Two faults of the same process or connection would interfere. */
function interfere({ victim: a }: Fault, { victim: b }: Fault): boolean {
  return b === EVERYTHING || a.includes(b) || b.includes(a);
}
