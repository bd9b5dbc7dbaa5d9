import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { MAX_SHORT_BACKLOG, MIN_SHORT_BACKLOG, PRIORITIES, ShortBacklog, toPriority } from './backlog.js';
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

/** Notes these backlogs in turn, `times` times. */
function toNoted(backlogs: number[], times = 2_000): ShortBacklog {
  const short = new ShortBacklog();
  for (let i = 0; i < times; i++) short.note(backlogs[i % backlogs.length] ?? 0);
  return short;
}

test('a longer backlog never has a lower number, and all numbers are small enough for BullMQ', () => {
  const limit = fc.double({ min: MIN_SHORT_BACKLOG, max: MAX_SHORT_BACKLOG, noNaN: true });
  fc.assert(
    fc.property(backlog, backlog, limit, (one, other, short) => {
      const [less, more] = [Math.min(one, other), Math.max(one, other)].map((n) => toPriority(n, short)) as [0, 0];
      expect(less).toBeLessThanOrEqual(more);
      expect([0, ...PRIORITIES]).toContain(more);
      expect(more).toBeLessThan(64);
    }),
  );
});

test('whatever the backlogs, up to 48 entries have priority 0, and more than 384 never have', () => {
  fc.assert(
    fc.property(fc.array(backlog, { minLength: 1 }), (backlogs) => {
      const { longest } = toNoted(backlogs);
      expect([48, 385].map((n) => toPriority(n, longest) === 0)).toEqual([true, false]);
    }),
  );
});

test('backlogs that are alike have one priority', () => {
  fc.assert(
    fc.property(fc.integer({ min: 100, max: 1e9 }), (typical) => {
      const backlogs = [0.6, 1, 1.6].map((factor) => Math.round(factor * typical));
      const { longest } = toNoted(backlogs);
      expect(new Set(backlogs.map((n) => toPriority(n, longest))).size).toBe(1);
    }),
  );
});

test('when equal backlogs have become short, 128 entries have priority 0 again', () => {
  for (const few of [0, 5, 16]) {
    const short = toNoted([300]);
    for (let i = 0; i < 2_000; i++) short.note(few);
    expect(short.longest).toBe(128);
  }
});

test('while backlogs differ, the first 128 entries have priority 0', () => {
  const alike = Array<number>(19).fill(100);
  for (const backlogs of [
    [16, 10_000],
    [...alike, 1_000_000],
    [...alike, 3_000],
    Array.from({ length: 100 }, (_, i) => 100_000 / (i + 1)),
  ]) {
    expect([backlogs, toNoted(backlogs).longest]).toEqual([backlogs, 128]);
  }
});

test('the limit follows what is usual, not a single backlog', () => {
  const short = toNoted([100]);
  const before = short.longest;
  for (const single of [50, 200, 400]) short.note(single);
  expect(short.longest).toBe(before);
});

test('equal backlogs that swing keep one priority after their first swing', () => {
  for (const middle of [64, 128, 192, 384, 1_024, 2_048, 3_072]) {
    const short = toNoted([middle]);
    const priorities = Array.from({ length: 50_000 }, (_, i) => {
      const swinging = middle * (1 - 0.2 * Math.sin(i / 1_000));
      short.note(swinging);
      return toPriority(swinging, short.longest);
    });
    expect([middle, new Set(priorities.slice(10_000)).size]).toEqual([middle, 1]);
  }
});
