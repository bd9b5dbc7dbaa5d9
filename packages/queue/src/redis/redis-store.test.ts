import { describe, expect, test } from '@jest/globals';
import calculateSlot from 'cluster-key-slot';
import fc from 'fast-check';
import { toHashTag } from './redis-store.js';

/** The last slot of each master, as `redis-cli --cluster create` assigns them. */
function dealSlots(masters: number): number[] {
  return Array.from({ length: masters }, (_, i) => Math.round((16_384 / masters) * (i + 1) - 1));
}

function countShards(prefix: string, shards: number, masters: number): number[] {
  const lasts = dealSlots(masters);
  const counts = lasts.map(() => 0);
  for (let shard = 0; shard < shards; shard++) {
    const slot = calculateSlot(toHashTag(prefix, shard, shards));
    const master = lasts.findIndex((last) => slot <= last);
    counts[master] = (counts[master] ?? 0) + 1;
  }
  return counts;
}

test('if the number of shards is a multiple of the number of masters, each master has the same number of shards', () => {
  const prefix = fc
    .string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 20 })
    .filter((text) => !/[{}]/.test(text));
  fc.assert(
    fc.property(prefix, fc.integer({ min: 2, max: 30 }), fc.integer({ min: 1, max: 4 }), (prefix, masters, factor) => {
      const counts = countShards(prefix, masters * factor, masters);
      expect(counts).toEqual(Array(masters).fill(factor));
    }),
  );
});

describe('the tag of a shard', () => {
  test('differs from the tag of any other shard', () => {
    const tags = Array.from({ length: 100 }, (_, shard) => toHashTag('opm', shard, 100));
    expect(new Set(tags).size).toBe(100);
  });

  test('differs from the tags of any other prefix, whatever the numbers of shards', () => {
    const tagsOf = (prefix: string) =>
      new Set(
        Array.from({ length: 20 }, (_, i) => i + 1).flatMap((shards) =>
          Array.from({ length: shards }, (_, shard) => toHashTag(prefix, shard, shards)),
        ),
      );
    const tags = ['opm', 'opm-0', 'opm-1', 'opm-2', 'opm-0.1', 'opm.1'].map(tagsOf);
    expect(new Set(tags.flatMap((own) => [...own])).size).toBe(tags.reduce((sum, own) => sum + own.size, 0));
  });

  test('has no suffix if there is only one shard', () => {
    expect(toHashTag('opm', 0, 1)).toBe('{opm-0}');
  });
});
