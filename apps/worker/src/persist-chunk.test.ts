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

test('the warning of claims that could not be settled names the first job and the number of jobs', async () => {
  const warned: unknown[] = [];
  const logger = createLogger({ name: 'test', level: 'silent' });
  logger.warn = (fields: unknown) => void warned.push(fields);
  const error = new Error('down');
  const persist = start({ settle: () => Promise.reject(error), logger });
  await persist(chunkOf('a', 'b'), contextOf(0, 'job-7'));
  expect(warned).toEqual([{ jobId: 'job-7', jobs: 1, err: error }]);
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

test('an entry that was persisted before an outage is not persisted again', async () => {
  const isFailing = new Set(['failing']);
  const counted: string[] = [];
  let mayWrite = Number.POSITIVE_INFINITY;
  const persist = start({
    gate: {
      run: async (call) => {
        if (mayWrite-- <= 0) throw new Postponed('down');
        return call();
      },
      check: async () => {},
    },
    upsert: async () => {
      throw new Error('some entry fails');
    },
    upsertEach: async (entries) => {
      const persisted = entries.filter(({ customerId }) => !isFailing.has(customerId));
      const others = entries.filter((entry) => !persisted.includes(entry));
      const failed = others.length > 0 ? [{ entries: others, error: new Error('unclassified') }] : [];
      return { persisted, failed, untried: [] };
    },
    onPersisted: (entries) => counted.push(...entries.map(({ customerId }) => customerId)),
    maxAttempts: 1,
    addDeadLetters: () => Promise.reject(new Error('must not be called')),
  });
  const before = chunkOf('a', 'failing', 'failing 2');
  isFailing.add('failing 2');
  mayWrite = 2; // the statement, and the first one of the isolation
  await expect(persist(before, contextOf(0, 'before'))).rejects.toThrow(Postponed);
  expect(counted).toEqual(['a']);
  isFailing.clear();
  mayWrite = Number.POSITIVE_INFINITY;
  await persist(before, contextOf(0, 'before', 2));
  expect(counted.sort()).toEqual(['a', 'failing', 'failing 2']);
});

test('an entry in isolation whose neighbors meet an outage is not persisted again', async () => {
  let isRejected = true;
  let isDown = false;
  const counted: number[] = [];
  const persist = start({
    upsert: async () => {
      if (isRejected) throw StoreError.of('22021', 'rejected');
      if (isDown) throw new Postponed('down');
    },
    upsertEach: async (entries) => {
      if (!isRejected) return { persisted: entries, failed: [], untried: [] };
      return { persisted: [], failed: [{ entries, error: StoreError.of('22021', 'rejected') }], untried: [] };
    },
    onPersisted: (entries) => counted.push(...entries.map(({ projectId }) => projectId)),
  });
  await persist(chunkOf('a'), contextOf(0, 'rejected')); // quarantines project 1
  [isRejected, isDown] = [false, true];
  const [own] = chunkOf('b').entries;
  const chunk = { entries: [own, { ...own, projectId: 2 }] } as Chunk;
  await expect(persist(chunk, contextOf(0, 'job'))).rejects.toThrow(Postponed);
  expect(counted).toEqual([1]);
  isDown = false;
  await persist(chunk, contextOf(0, 'job', 2));
  expect(counted).toEqual([1, 2]);
});

test('a job of which one entry fails and one meets an outage is postponed, which uses up no attempt', async () => {
  let isDown = false;
  const persist = start({
    upsertEach: async (entries) => {
      if (isDown && entries.some(({ customerId }) => customerId === 'failed before')) throw new Postponed('down');
      return { persisted: [], failed: [{ entries, error: new Error('unclassified') }], untried: [] };
    },
  });
  await expect(persist(chunkOf('failed before'), contextOf(0, 'first', 2))).rejects.toThrow('unclassified');
  isDown = true;
  await expect(persist(chunkOf('failed before', 'other'), contextOf(0, 'second', 2))).rejects.toThrow(Postponed);
});

test('once a rejected project is known, entries that failed beside it are persisted together, not one by one', async () => {
  const statements: string[][] = [];
  const tried: string[][] = [];
  const release: (() => void)[] = [];
  const isBad = ({ customerId }: { customerId: string }) => customerId.startsWith('bad');
  const persist = start({
    upsert: async (entries) => {
      if (entries.some(isBad)) throw StoreError.of('22021', 'rejected');
      statements.push(entries.map(({ customerId }) => customerId));
    },
    upsertEach: async (entries) => {
      tried.push(entries.map(({ customerId }) => customerId));
      await new Promise<void>((resolve) => release.push(resolve));
      const failed = entries.filter(isBad).map((entry) => ({ entries: [entry], error: StoreError.of('22021', 'bad') }));
      return { persisted: entries.filter((entry) => !isBad(entry)), failed, untried: [] };
    },
  });
  const chunk = (...customerIds: string[]): Chunk => ({
    entries: customerIds.map((customerId, i) => ({ projectId: i, customerId, version: 1, fields: { phone: '1' } })),
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const jobs = [persist(chunk('bad 1', 'a'), contextOf(0, '1'))];
  while (tried.length < 1) await turn();
  jobs.push(persist(chunk('bad 2', 'b', 'c'), contextOf(0, '2')));
  for (let turns = 0; turns < 10; turns++) await turn(); // until the second job has failed, and waits for the first
  release.pop()?.();
  while (tried.length < 2) await turn();
  release.pop()?.();
  await Promise.all(jobs);
  expect(tried).toEqual([['bad 1', 'a'], ['bad 2']]);
  expect(statements).toEqual([['b', 'c']]);
});
