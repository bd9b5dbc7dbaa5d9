import { setTimeout as delay } from 'node:timers/promises';
import { untilRecovered } from '../probe.js';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import { createFaultDraw } from './draw-faults.js';
import type { Fault } from './fault.js';

/** What went wrong at the same time. The times are milliseconds on the ledger's clock; one that never came is missing. */
export type Round = { faults: string[]; startedAt: number; mendedAt?: number; recoveredAt?: number };

type Options = {
  faults: number;
  random: Random;
  /** After each round, until it is worth saying that the stack does not come back. */
  maxRecoveryMs: number;
  onStart: (round: Round) => void;
  /** Also of one that was the last, since it could not be mended. */
  onEnd: (round: Round) => Promise<void>;
  signal: AbortSignal;
};

/** Between two rounds, so that there is something under way when the next fault comes. */
const MAX_PAUSE_MS = 1_000;

/** Round by round, each once all is well again. @throws Error where it does not become well */
export async function doFaults(
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
      round.mendedAt = performance.now();
      await untilRecovered(stack, maxRecoveryMs);
      round.recoveredAt = performance.now();
    } finally {
      await onEnd(round);
    }
    left -= drawn.length;
  }
}

async function runFault({ name, run }: Fault): Promise<void> {
  await run().catch((cause: Error) => {
    throw new Error(`${name} could not be done or mended: ${cause.message}`, { cause });
  });
}
