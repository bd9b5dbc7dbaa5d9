import { afterEach, expect, jest, test } from '@jest/globals';
import { type Chunk, type JobContext, Postponed } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import { StoreError } from '@opm/store';
import { createPersistChunk, type PersistChunkDeps } from './persist-chunk.js';

afterEach(() => {
  jest.useRealTimers();
});

const start = (deps: Partial<PersistChunkDeps> = {}) =>
  createPersistChunk({
    gate: { run: (call) => call(), check: async () => {} },
    upsert: async () => {},
    upsertEach: async (persisted) => ({ persisted, failed: [], untried: [] }),
    settle: async () => {},
    addDeadLetters: async (letters) => letters,
    maxRows: 10,
    maxInFlight: 2,
    maxAttempts: 3,
    onPersisted: () => {},
    onDeadLetter: () => {},
    logger: createLogger({ name: 'test', level: 'silent' }),
    ...deps,
  });

const chunkOf = (...customerIds: string[]): Chunk => ({
  entries: customerIds.map((customerId) => ({ projectId: 1, customerId, version: 1, fields: { phone: '1' } })),
});
const contextOf = (shard: number, jobId: string, starts = 1): JobContext => ({
  ...{ shard, jobId, attempt: 1, start: starts, priority: 0 },
});

test('a shard whose store hangs during settle delays no other shard, and its own jobs finish too', async () => {
  jest.useFakeTimers({ doNotFake: ['setImmediate', 'performance', 'nextTick', 'queueMicrotask'] });
  let settleCalls = 0;
  const persist = start({
    settle: (shard) => {
      if (shard > 0) return Promise.resolve();
      settleCalls++;
      return new Promise(() => {});
    },
  });
  const hanging: Promise<void>[] = [];
  for (let job = 0; settleCalls < 2; job++) {
    hanging.push(persist(chunkOf('a'), contextOf(0, `${job}`)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(Array.from({ length: 20 }, (_job, job) => persist(chunkOf('b'), contextOf(1, `${job}`))));

  let areDone = false;
  const done = Promise.all(hanging).finally(() => {
    areDone = true;
  });
  while (!areDone) {
    jest.advanceTimersByTime(1_000);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await done;
});

test('a repeated job persists its locked entry, even if another of its entries has the same version', async () => {
  const held = new Set(['held']);
  const stored: string[] = [];
  const persist = start({
    upsertEach: async (entries) => {
      const persisted = entries.filter(({ customerId }) => !held.has(customerId));
      const blocked = entries.filter((entry) => !persisted.includes(entry));
      stored.push(...persisted.map(({ customerId }) => customerId));
      const failed = blocked.map((entry) => ({ entries: [entry], error: StoreError.of('55P03', 'held') }));
      return { persisted, failed, untried: [] };
    },
  });
  const chunk = chunkOf('held', 'free');
  await expect(persist(chunk, contextOf(0, 'job', 2))).rejects.toThrow(Postponed);
  expect(stored).toEqual(['free']);
  held.clear();
  const again = async () => persist(chunk, contextOf(0, 'job', 3)).then(() => true);
  while (!(await again().catch(() => false))) await new Promise((resolve) => setImmediate(resolve));
  expect(stored).toEqual(['free', 'held']);
});

test('a rejected entry counts as a dead letter if its letter is new, and not again if its job is repeated', async () => {
  const open = new Set<string | undefined>();
  const counted: string[] = [];
  const persist = start({
    upsertEach: async (entries) => ({
      ...{ persisted: [], untried: [] },
      failed: entries.map((entry) => ({ entries: [entry], error: StoreError.of('22021', 'rejected') })),
    }),
    addDeadLetters: async (letters) =>
      letters.filter(({ entry }) => !open.has(entry?.customerId) && open.add(entry?.customerId)),
    onDeadLetter: ({ entry }) => counted.push(entry.customerId),
  });
  for (const [i, chunk] of [chunkOf('a'), chunkOf('a', 'b'), chunkOf('a', 'b')].entries()) {
    await persist(chunk, contextOf(0, 'job', i + 2));
  }
  expect(counted).toEqual(['a', 'b']);
});
