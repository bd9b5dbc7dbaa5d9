import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';

/** Something that goes wrong for a while, and is mended. */
export type Fault = {
  /** Such as `kill Redis`. */
  name: string;
  /** What it is done to; two faults at the same time are done to two of these. */
  victim: string;
  /** Does it, waits, and mends it. Rejects where it cannot be mended. */
  run(): Promise<void>;
};

/** The victim of what nothing else can be done beside. */
export const EVERYTHING = 'everything';

/** One kind of fault, with what it may be done to. */
export type FaultKind = {
  /** How often it is drawn, compared with others. */
  weight: number;
  draw(stack: Stack, random: Random): Fault;
};
