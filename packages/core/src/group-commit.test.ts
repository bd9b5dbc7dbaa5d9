import { expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { GroupCommit } from './group-commit.js';

/** A GroupCommit whose bulk calls end when the test calls `end`. */
function createRecorder(maxBatch = 3, maxInFlight = 1, maxInFlightPerPartition = maxInFlight) {
  const calls: { partition: string; items: number[]; end: (error?: Error) => void }[] = [];
  const group = new GroupCommit<string, number, number>({
    commit: (partition, items) =>
      new Promise((resolve, reject) => {
        calls.push({ partition, items, end: (error) => (error ? reject(error) : resolve(items.map((n) => n * 10))) });
      }),
    maxBatch,
    maxInFlight,
    maxInFlightPerPartition,
  });
  return { calls, group };
}
/** A GroupCommit whose bulk calls end at once, one at a time. */
function createPrompt(bounds: { maxBatch: number | (() => number); sizeOf?: (item: number) => number }) {
  const calls: number[][] = [];
  const group = new GroupCommit<string, number, number>({
    commit: async (_partition, items) => {
      calls.push(items);
      return items;
    },
    maxInFlight: 1,
    ...bounds,
  });
  return { calls, group };
}
const turn = () => new Promise((resolve) => setImmediate(resolve));

test('calls of one turn become one bulk call, each with its own result', async () => {
  const { calls, group } = createRecorder();
  const results = Promise.all([group.run('a', 1), group.run('a', 2)]);
  await turn();
  expect(calls.map(({ items }) => items)).toEqual([[1, 2]]);
  calls[0]?.end();
  expect(await results).toEqual([10, 20]);
});

test('a result that is an Error rejects its own item, and no other one', async () => {
  const group = new GroupCommit<string, number, number>({
    commit: async (_partition, items) => items.map((n) => (n < 0 ? new RangeError(`${n}`) : n)),
    maxBatch: 3,
    maxInFlight: 1,
  });
  const outcomes = await Promise.allSettled([1, -2, 3].map((n) => group.run('a', n)));
  expect(outcomes).toEqual([
    { status: 'fulfilled', value: 1 },
    { status: 'rejected', reason: new RangeError('-2') },
    { status: 'fulfilled', value: 3 },
  ]);
  expect([group.pending, group.sources]).toEqual([0, 0]);
});

test('a lone call is committed in the same turn of the event loop', async () => {
  const { calls, group } = createRecorder();
  void group.run('a', 1);
  await turn();
  expect(calls).toHaveLength(1);
  calls[0]?.end();
});

test('calls that wait for a bulk call to end are batched up to the limit, and partitions take turns', async () => {
  const { calls, group } = createRecorder();
  const first = group.run('a', 1);
  await turn();
  const rest = Promise.all([2, 3, 4, 5].map((n) => group.run('a', n)).concat(group.run('b', 6)));
  await turn();
  expect(calls).toHaveLength(1);
  for (let i = 0; i < 4; i++) {
    calls[i]?.end();
    await turn();
    await turn();
  }
  await first;
  await rest;
  expect(calls.map(({ partition, items }) => [partition, items])).toEqual([
    ['a', [1]],
    ['a', [2, 3, 4]],
    ['b', [6]],
    ['a', [5]],
  ]);
});

test('a partition that has reached its limit of bulk calls does not delay other partitions', async () => {
  const { calls, group } = createRecorder(1, 3, 1);
  const results = Promise.all([group.run('a', 1), group.run('a', 2), group.run('b', 3)]);
  await turn();
  expect(calls.map(({ partition, items }) => [partition, items])).toEqual([
    ['a', [1]],
    ['b', [3]],
  ]);
  expect([group.pending, group.inFlight]).toEqual([3, 2]);
  calls[0]?.end();
  await turn();
  await turn();
  expect(calls[2]).toMatchObject({ partition: 'a', items: [2] });
  for (const { end } of calls) end();
  expect(await results).toEqual([10, 20, 30]);
  expect([group.pending, group.inFlight]).toEqual([0, 0]);
});

test('a bulk call that counts as several takes as many slots, and starts while any slot is free', async () => {
  const ends: (() => void)[] = [];
  const group = new GroupCommit<string, number, number>({
    commit: (_partition, items) => new Promise((resolve) => ends.push(() => resolve(items))),
    slotsOf: ([slots = 0]) => slots,
    maxBatch: 2,
    maxInFlight: 9,
    maxInFlightPerPartition: 3,
  });
  const results: Promise<number>[] = [];
  const run = async (...items: number[]) => {
    results.push(...items.map((item) => group.run('a', item)));
    await turn();
    await turn();
    return [ends.length, group.inFlight];
  };
  expect(await run(2)).toEqual([1, 2]);
  expect(await run(2)).toEqual([2, 4]);
  expect(await run(5, 5, 5)).toEqual([2, 4]);
  ends[0]?.();
  expect(await run()).toEqual([3, 3]); // counts as one, because it is full
  ends[1]?.();
  expect(await run()).toEqual([4, 6]);
  for (const end of ends.slice(2)) end();
  expect(await run()).toEqual([4, 0]);
  expect(await Promise.all(results)).toEqual([2, 2, 5, 5, 5]);
});

test('a bulk call that fails rejects its own items only', async () => {
  const { calls, group } = createRecorder(1, 2);
  const results = Promise.allSettled([group.run('a', 1), group.run('a', 2)]);
  await turn();
  calls[0]?.end(new Error('refused'));
  calls[1]?.end();
  expect(await results).toEqual([
    { status: 'rejected', reason: new Error('refused') },
    { status: 'fulfilled', value: 20 },
  ]);
});

test('under any load every call gets its own result exactly once, and the limits hold', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c'), fc.nat(2)), { maxLength: 60 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 3 }),
      async (calls, maxBatch, maxInFlight) => {
        let inFlight = 0;
        const group = new GroupCommit<string, string, string>({
          commit: async (partition, items) => {
            expect(++inFlight).toBeLessThanOrEqual(maxInFlight);
            expect(items.length).toBeLessThanOrEqual(maxBatch);
            await turn();
            inFlight--;
            return items.map((item) => `${partition}: ${item}`);
          },
          maxBatch,
          maxInFlight,
        });
        const answers: Promise<string>[] = [];
        for (const [i, [partition, turns]] of calls.entries()) {
          answers.push(group.run(partition, String(i)));
          for (let n = 0; n < turns; n++) await turn();
        }
        expect(await Promise.all(answers)).toEqual(calls.map(([partition], i) => `${partition}: ${i}`));
      },
    ),
    { numRuns: 50 },
  );
});

test('calls that waited too long behind a bulk call that hangs are rejected when it ends', async () => {
  const calls: (() => void)[] = [];
  const group = new GroupCommit<string, number, number>({
    commit: (_, items) => new Promise((resolve) => calls.push(() => resolve(items))),
    maxBatch: 10,
    maxInFlight: 1,
    expiry: { maxWaitMs: 0, toError: () => new Error('too late') },
  });
  const hanging = group.run('a', 1);
  await turn();
  const waiting = Promise.allSettled([group.run('a', 2), group.run('b', 3)]);
  await turn();
  calls[0]?.();
  expect(await hanging).toBe(1);
  expect((await waiting).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  const next = group.run('a', 4);
  await turn();
  calls[1]?.();
  expect(await next).toBe(4);
});

test('items with a size fill a bulk call up to the limit, and a larger item goes alone', async () => {
  const { calls, group } = createPrompt({ maxBatch: 10, sizeOf: (item) => item });
  await Promise.all([4, 6, 1, 9, 1, 25, 2].map((size) => group.run('a', size)));
  expect(calls).toEqual([[4, 6], [1, 9], [1], [25], [2]]);
});

test('a changed limit applies from the next bulk call on', async () => {
  const { calls, group } = createPrompt({ maxBatch: () => calls.length + 1 });
  await Promise.all([1, 2, 3, 4, 5, 6, 7].map((item) => group.run('a', item)));
  expect(calls).toEqual([[1], [2, 3], [4, 5, 6], [7]]);
});

test('an item refused at its turn is not committed and uses no slot; the rest of its batch is committed', async () => {
  const calls: number[][] = [];
  const refused = new Set<number>();
  const group = new GroupCommit<string, number, number>({
    commit: async (_partition, items) => {
      calls.push(items);
      return items.map((n) => n * 10);
    },
    maxBatch: 3,
    maxInFlight: 1,
    refuse: (item) => (refused.has(item) ? new Error(`no ${item}`) : undefined),
  });
  const [some, none] = [
    Promise.allSettled([1, 2, 3].map((n) => group.run('a', n))),
    Promise.allSettled([group.run('b', 4)]),
  ];
  for (const item of [2, 4]) refused.add(item);
  expect((await some).map((outcome) => ('value' in outcome ? outcome.value : outcome.reason.message))).toEqual([
    ...[10, 'no 2', 30],
  ]);
  expect((await none).map(({ status }) => status)).toEqual(['rejected']);
  expect(await group.run('c', 5)).toBe(50);
  expect(calls).toEqual([[1, 3], [5]]);
  expect([group.pending, group.inFlight]).toEqual([0, 0]);
});

/** Commits the items, which all wait before the first bulk call. @returns the bulk calls */
async function commitAll(items: { source: string; size: number; bytes: number }[], maxBatch: number, maxBytes: number) {
  const calls: (typeof items)[] = [];
  const group = new GroupCommit<string, (typeof items)[number], void>({
    commit: async (_partition, some) => {
      calls.push(some);
      return some.map(() => undefined);
    },
    maxInFlight: 1,
    maxBatch,
    sizeOf: ({ size }) => size,
    bytes: { of: ({ bytes }) => bytes, max: maxBytes },
    sourceOf: ({ source }) => source,
  });
  const done = Promise.all(items.map((item) => group.run('a', item)));
  const pending = items.reduce((sum, { size }) => sum + size, 0);
  expect([group.pending, group.sources]).toEqual([pending, new Set(items.map(({ source }) => source)).size]);
  await done;
  expect([group.pending, group.sources, group.pendingOf('a')]).toEqual([0, 0, 0]);
  return calls;
}

test('more idle sources than are kept do not change the number of pending ones', async () => {
  const group = new GroupCommit<string, number, number>({
    commit: async (_, items) => items,
    sourceOf: (item) => item,
    maxBatch: 1_000,
    maxInFlight: 2,
  });
  const items = Array.from({ length: 25_000 }, (_, i) => i);
  const calls = Promise.all([...items, ...items].map((item) => group.run('p', item)));
  expect([group.pending, group.sources]).toEqual([50_000, 25_000]);
  await calls;
  expect([group.pending, group.sources]).toEqual([0, 0]);
  const again = Promise.all([7, 7, 24_999].map((item) => group.run('p', item)));
  expect([group.pendingOf(7), group.pendingOf(24_999), group.sources]).toEqual([2, 1, 2]);
  await again;
  expect([group.pendingOf(7), group.sources]).toEqual([0, 0]);
});

test('a source with many items does not delay the others: sources take turns in each bulk call', async () => {
  const items = [...'aaaaaaaaaaaaaaaabbbc'].map((source) => ({ source, size: 1, bytes: 1 }));
  const calls = await commitAll(items, 8, 1_000);
  expect(calls.map((call) => call.map(({ source }) => source).join(''))).toEqual(['abcababa', 'aaaaaaaa', 'aaaa']);
});

test('sources keep their order, no bulk call exceeds a limit, and waiting sources get nearly equal shares', async () => {
  const item = fc.record({
    source: fc.constantFrom<string>('a', 'b', 'c', 'd'),
    size: fc.integer({ min: 1, max: 4 }),
    bytes: fc.integer({ min: 1, max: 100 }),
  });
  const [maxBatch, maxBytes] = [20, 500];
  const sharesOf = (some: { size: number; bytes: number }[]) =>
    some.reduce((sum, { size, bytes }) => sum + Math.max(size / maxBatch, bytes / maxBytes), 0);
  await fc.assert(
    fc.asyncProperty(fc.array(item, { minLength: 1, maxLength: 200 }), async (items) => {
      const calls = await commitAll(items, maxBatch, maxBytes);
      const of = (source: string, some: typeof items) => some.filter((it) => it.source === source);
      for (const source of ['a', 'b', 'c', 'd']) expect(of(source, calls.flat())).toEqual(of(source, items));
      for (const [i, call] of calls.entries()) {
        expect(call.reduce((sum, { size }) => sum + size, 0)).toBeLessThanOrEqual(maxBatch);
        expect(call.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(maxBytes);
        const given = calls.slice(0, i + 1).flat();
        const waiting = ['a', 'b', 'c', 'd'].filter((source) => of(source, given).length < of(source, items).length);
        const shares = waiting.map((source) => sharesOf(of(source, given)));
        // The difference is at most one turn and the largest item, for both sources.
        if (waiting.length > 1)
          expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(2 * (1 / 8 + 1 / 5));
      }
    }),
    { numRuns: 100 },
  );
});

test('calls of any partition and source that waited too long are rejected, and the others are kept', async () => {
  let now = 0;
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => now);
  const ends: (() => void)[] = [];
  const calls: string[][] = [];
  const group = new GroupCommit<string, string, string>({
    commit: (_partition, items) =>
      new Promise((resolve) => {
        calls.push(items);
        ends.push(() => resolve(items));
      }),
    maxBatch: 10,
    maxInFlight: 1,
    sourceOf: ([source]) => source,
    expiry: { maxWaitMs: 50, toError: (item) => new Error(`${item} came too late`) },
  });
  const run = (partition: string, ...items: string[]) =>
    Promise.allSettled(items.map((item) => group.run(partition, item)));
  const hanging = run('x', 'a1');
  await turn();
  const late = Promise.all([run('x', 'a2', 'b1', 'a3'), run('y', 'c1')]);
  now = 60;
  const intime = run('x', 'b2', 'd1');
  ends[0]?.();
  await hanging;
  expect((await late).flat().map((outcome) => outcome.status)).toEqual(Array(4).fill('rejected'));
  expect([group.pending, group.pendingOf('a'), group.pendingOf('b'), group.sources]).toEqual([2, 0, 1, 2]);
  await turn();
  ends[1]?.();
  expect((await intime).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled']);
  expect(calls).toEqual([['a1'], ['b2', 'd1']]);
  clock.mockRestore();
});
