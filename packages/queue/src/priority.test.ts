import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { toPriority } from './priority.js';

test('a small backlog has no priority, and sixteen times as much counts one more', () => {
  expect([0, 1, 128, 129, 2_048, 2_049, 32_768, 1_000_000].map(toPriority)).toEqual([0, 0, 0, 1, 1, 2, 2, 4]);
});

test('a larger backlog is never served earlier, and BullMQ takes any of them', () => {
  const backlog = fc.maxSafeInteger().map(Math.abs);
  fc.assert(
    fc.property(backlog, backlog, (one, other) => {
      const [less, more] = [Math.min(one, other), Math.max(one, other)].map(toPriority);
      expect(less).toBeLessThanOrEqual(more ?? 0);
      expect(more).toBeLessThan(64);
    }),
  );
});
