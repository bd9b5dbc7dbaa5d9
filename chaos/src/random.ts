import { setTimeout as delay } from 'node:timers/promises';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** Random draws; the same seed gives the same draws. */
export type Random = {
  /** A whole number from `min` to `max`, inclusive. */
  between(min: number, max: number): number;
  /** True in `percent` of 100 draws. */
  chance(percent: number): boolean;
  pick<T>(items: readonly [T, ...T[]]): T;
  pick<T>(items: readonly T[]): T;
};

/** @param stream number of the stream; more draws from one stream do not change those of another */
export function createRandom(seed: number, stream: number): Random {
  const generator = xoroshiro128plus(seed);
  for (let i = 0; i < stream; i++) generator.jump();
  const between = (min: number, max: number) => uniformInt(generator, min, max);
  return {
    between,
    chance: (percent) => between(1, 100) <= percent,
    pick<T>(items: readonly T[]): T {
      if (items.length === 0) throw new RangeError('there is nothing to pick from');
      return items[between(0, items.length - 1)] as T;
    },
  };
}

export type Limit = { maxMs?: number; giveUp?: AbortSignal };

const LONGEST_MS = 2 ** 31 - 1;

/**
 * Settles as the promise does.
 * @throws Error if `maxMs` pass first or `giveUp` is aborted first
 */
export async function withTimeout<T>(promise: Promise<T>, { maxMs = LONGEST_MS, giveUp }: Limit): Promise<T> {
  const done = new AbortController();
  const signal = giveUp ? AbortSignal.any([giveUp, done.signal]) : done.signal;
  const end = async (): Promise<never> => {
    await delay(maxMs, undefined, { signal }).catch(() => {
      throw new Error('given up');
    });
    throw new Error(`not done within ${maxMs / 1_000} s`);
  };
  return Promise.race([promise, end()]).finally(() => done.abort());
}
