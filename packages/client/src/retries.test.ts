import { expect, test } from '@jest/globals';
import { toDelayMs } from './retries.js';

test('backoff doubles up to ten seconds, has full jitter, and is added to Retry-After', () => {
  const longest = [1, 2, 3, 4, 20].map((tries) => toDelayMs(tries, undefined, () => 1));
  expect(longest).toEqual([100, 200, 400, 800, 10_000]);
  expect(toDelayMs(20, undefined, () => 0)).toBe(0);
  expect(toDelayMs(1, 5, () => 0)).toBe(5_000);
  expect(toDelayMs(1, 5, () => 1)).toBe(5_100);
});
