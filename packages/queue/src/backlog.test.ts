import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { toPriority } from './backlog.js';
import { countSampled, SAMPLE } from './chunk.js';

const entries = fc.array(
  fc.record({ projectId: fc.integer({ min: 1, max: 5 }), version: fc.integer({ min: 1, max: 1e9 }) }),
);

test('the sampled counts of the parts of a chunk add up to those of the chunk', () => {
  fc.assert(
    fc.property(entries, fc.nat(100), (all, at) => {
      const sum = countSampled(all.slice(0, at));
      for (const [projectId, count] of countSampled(all.slice(at))) {
        sum.set(projectId, (sum.get(projectId) ?? 0) + count);
      }
      expect([...sum].sort()).toEqual([...countSampled(all)].sort());
    }),
  );
});

test('consecutive versions of up to 200 entries change at most 13 counts, and the counts are off by less than 16', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1e15 }), fc.integer({ min: 1, max: 200 }), (first, count) => {
      const chunk = Array.from({ length: count }, (_, i) => ({ projectId: i + 1, version: first + i }));
      const counts = countSampled(chunk);
      expect(counts.size).toBeLessThanOrEqual(13);
      expect(Math.abs(counts.size * SAMPLE - count)).toBeLessThan(SAMPLE);
    }),
  );
});

test('a short backlog has priority 0, and each factor of 16 adds 1', () => {
  expect([0, 1, 128, 129, 2_048, 2_049, 32_768, 1_000_000].map(toPriority)).toEqual([0, 0, 0, 1, 1, 2, 2, 4]);
});

test('a longer backlog never has a lower number, and all numbers are small enough for BullMQ', () => {
  const backlog = fc.maxSafeInteger().map(Math.abs);
  fc.assert(
    fc.property(backlog, backlog, (one, other) => {
      const [less, more] = [Math.min(one, other), Math.max(one, other)].map(toPriority);
      expect(less).toBeLessThanOrEqual(more ?? 0);
      expect(more).toBeLessThan(64);
    }),
  );
});
