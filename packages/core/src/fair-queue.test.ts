import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { FairQueue } from './fair-queue.js';

const BATCH = { size: 64, bytes: 1_000 };

test('a call of a source that had none waits for about a batch, or for one call of each other source', () => {
  const counts = {
    senders: fc.integer({ min: 1, max: 50 }),
    calls: fc.integer({ min: 1, max: 50 }),
    before: fc.nat(20),
  };
  fc.assert(
    fc.property(fc.record(counts), ({ senders, calls, before }) => {
      const queue = new FairQueue<number, { source: number; size: number; bytes: number }>();
      const push = (source: number) => queue.push(source, { source, size: 1, bytes: 1 });
      for (let i = 0; i < calls; i++) for (let source = 1; source <= senders; source++) push(source);
      for (let i = 0; i < before; i++) queue.take(BATCH);
      push(0);
      const taken: number[] = [];
      while (!taken.includes(0)) taken.push(...queue.take(BATCH).map(({ source }) => source));
      expect(taken.indexOf(0)).toBeLessThanOrEqual(BATCH.size + senders);
    }),
  );
});

test('whatever is pushed, taken and dropped, each call comes out once, after the older ones of its source', () => {
  const action = fc.oneof(
    fc.record({ source: fc.constantFrom('a', 'b', 'c'), size: fc.integer({ min: 1, max: 100 }) }),
    fc.constantFrom('take' as const, 'drop' as const),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 200 }), (actions) => {
      const queue = new FairQueue<string, { id: number; source: string; size: number; bytes: number }>();
      const waiting = new Map<string, number[]>([...'abc'].map((source) => [source, []]));
      const take = () => {
        for (const { id, source } of queue.take(BATCH)) expect(waiting.get(source)?.shift()).toBe(id);
      };
      for (const [id, one] of actions.entries()) {
        const [oldest, ids] = [...waiting].find(([, own]) => own.length > 0) ?? [];
        if (one === 'take') take();
        else if (one !== 'drop') {
          queue.push(one.source, { ...one, id, bytes: 1 });
          waiting.get(one.source)?.push(id);
        } else if (oldest && ids) {
          queue.dropOldest(oldest);
          ids.shift();
        }
      }
      while (!queue.isEmpty) take();
      expect([...waiting.values()].flat()).toEqual([]);
    }),
  );
});
