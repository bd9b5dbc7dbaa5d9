import { expect, test } from '@jest/globals';
import { parseRetryAfter } from './retry-after.js';

const NOW = Date.parse('2026-11-25T12:00:00Z');

test.each<[string | undefined, number | undefined]>([
  ['0', 0],
  ['1', 1],
  [' 120 ', 120],
  ['Wed, 25 Nov 2026 12:00:07 GMT', 7],
  ['Wednesday, 25-Nov-26 12:00:07 GMT', 7],
  ['Wed, 25 Nov 2026 11:59:00 GMT', 0],
  [undefined, undefined],
  ['', undefined],
  ['-1', undefined],
  ['1.5', undefined],
  ['soon', undefined],
  ['2026', 2026],
])('Retry-After: %s means %s seconds from now', (header, seconds) => {
  expect(parseRetryAfter(header, NOW)).toBe(seconds);
});
