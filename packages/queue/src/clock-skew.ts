/** This process's own clock, whatever is done to `Date.now` later. */
export const ownNow = Date.now;

/** The longest that a deadline of each kind may be away, in ms. */
export type DeadlineLimits = { lockMs: number; stalledMs: number; delayMs: number };

/** Smaller differences between two clocks do not matter, and a busy process cannot tell them. */
export const TOLERANCE_MS = 1_000;
const NOTABLE_MS = 60_000;

/** Of the server whose clock is furthest from this process's, in ms; positive if it is ahead. @throws Error if there is none */
export function toWorst(skews: number[]): number {
  return skews.reduce((worst, skew) => (Math.abs(skew) > Math.abs(worst) ? skew : worst));
}

/** A word for `/readyz`, if the clocks are more than a minute apart. */
export function toClockWord(skews: number[]): string | undefined {
  const worst = skews.length === 0 ? 0 : toWorst(skews);
  if (Math.abs(worst) <= NOTABLE_MS) return undefined;
  const seconds = Math.round(Math.abs(worst) / 1_000);
  return `its clock is ${seconds} s ${worst > 0 ? 'ahead of' : 'behind'} this process's`;
}

/**
 * How far a server's clock is ahead of this process's, in ms.
 * @throws Error if the answer took so long that it says nothing
 */
export async function measureSkew(readTime: () => Promise<number>): Promise<number> {
  const before = performance.now();
  const time = await readTime();
  const tookMs = performance.now() - before;
  if (tookMs > TOLERANCE_MS) throw new Error(`the clock was told after ${Math.round(tookMs)} ms`);
  return time + tookMs / 2 - ownNow();
}
