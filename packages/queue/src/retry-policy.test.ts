import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { retryDelayMs } from './retry-policy.js';

test('delays double up to the cap, and the upper half of each is random', () => {
  const delays = (random: number) =>
    [1, 2, 3, 8, 9, 1_000].map((attempt) => retryDelayMs(attempt, { random: () => random }));
  expect(delays(1)).toEqual([250, 500, 1_000, 30_000, 30_000, 30_000]);
  expect(delays(0)).toEqual([125, 250, 500, 15_000, 15_000, 15_000]);
});

test('no delay is longer than the cap, whatever the attempt', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), (attempt) => {
      const delay = retryDelayMs(attempt, { maxMs: 10_000 });
      return delay >= 125 && delay <= 10_000;
    }),
  );
});
