import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { countSampled, SAMPLE } from './backlog-sample.js';

const entries = fc.array(
  fc.record({ projectId: fc.integer({ min: 1, max: 5 }), version: fc.integer({ min: 1, max: 1e9 }) }),
);

test('however a chunk is split, its parts count what it counts', () => {
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

test('versions that follow one another change 13 counts of 200 at most, and count about as many as they are', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1e15 }), fc.integer({ min: 1, max: 200 }), (first, count) => {
      const chunk = Array.from({ length: count }, (_, i) => ({ projectId: i + 1, version: first + i }));
      const counts = countSampled(chunk);
      expect(counts.size).toBeLessThanOrEqual(13);
      expect(Math.abs(counts.size * SAMPLE - count)).toBeLessThan(SAMPLE);
    }),
  );
});
