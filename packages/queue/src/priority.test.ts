import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { toPriority } from './priority.js';

test('a small backlog has no priority, and each doubling of a larger one counts one more', () => {
  expect([0, 1, 2_000, 2_001, 4_000, 4_001, 1_000_000].map(toPriority)).toEqual([0, 0, 0, 1, 1, 2, 9]);
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
