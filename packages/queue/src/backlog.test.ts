import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { MIN_SHORT_BACKLOG, PRIORITIES, toPriority, toShortBacklog } from './backlog.js';
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
  expect([0, 1, 128, 129, 2_048, 2_049, 32_768, 1_000_000].map((n) => toPriority(n))).toEqual([0, 0, 0, 1, 1, 2, 2, 4]);
});

const backlog = fc.maxSafeInteger().map(Math.abs);

test('a longer backlog never has a lower number, and all numbers are small enough for BullMQ', () => {
  fc.assert(
    fc.property(backlog, backlog, backlog, (one, other, typical) => {
      const short = toShortBacklog(typical);
      const [less, more] = [Math.min(one, other), Math.max(one, other)].map((n) => toPriority(n, short)) as [0, 0];
      expect(less).toBeLessThanOrEqual(more);
      expect([0, ...PRIORITIES]).toContain(more);
      expect(more).toBeLessThan(64);
    }),
  );
});

test('backlogs of 3.9 times less to 3.9 times more than is typical share a priority', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1e9 }), (typical) => {
      const short = toShortBacklog(typical);
      const priorities = [1 / 3.9, 1, 3.9].map((factor) => toPriority(typical * factor, short));
      expect(priorities).toEqual(Array(3).fill(priorities[0]));
    }),
  );
});

test('whatever is typical, up to 32 entries have priority 0, and more than 512 never have', () => {
  expect(MIN_SHORT_BACKLOG).toBe(32);
  fc.assert(
    fc.property(backlog, (typical) => {
      const short = toShortBacklog(typical);
      expect([32, 513].map((n) => toPriority(n, short) === 0)).toEqual([true, false]);
    }),
  );
});
