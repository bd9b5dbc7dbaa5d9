import { expect, test } from '@jest/globals';
import { shardOf } from '@opm/queue';
import fc from 'fast-check';
import { CircuitBreaker } from '../ingest/circuit-breaker.js';
import { createFindCustomer, createFindQueued } from './get-entry.js';

const ids = Array.from({ length: 1_000 }, (_, i) => `c${i}`);

test.each([
  ['1,000 entries share one call of each store', 1, [1_000]],
  ['of customers, which have up to 20 refused entries each, 50 do', undefined, Array(20).fill(50)],
])('%s', async (_, version, expected) => {
  const calls: Record<string, number[]> = { claims: [], refused: [], rows: [] };
  const findCustomer = createFindCustomer({
    async readClaims(_shard, _projectId, customers) {
      calls.claims?.push(customers.length);
      return customers.map(() => undefined);
    },
    async findRefused(_projectId, asked) {
      calls.refused?.push(asked.length);
      return asked.map(() => []);
    },
    async findVersioned(_projectId, customerIds) {
      calls.rows?.push(customerIds.length);
      return new Map();
    },
    shards: 1,
    budget: { turnMs: 60_000, workMs: 60_000 },
    maxInFlight: 2,
    breaker: new CircuitBreaker({ onFailure: () => {} }),
  });
  const asked = ids.map((customerId) => ({ customerId, ...(version !== undefined && { version }) }));
  const found = await Promise.all(asked.map((one) => findCustomer(1, one)));
  expect(found).toEqual(ids.map(() => ({ row: undefined, refused: [], claim: undefined })));
  expect(calls).toEqual({ claims: expected, refused: expected, rows: expected });
});

test('a shard whose store hangs gets half of the 64 calls in flight of two shards, and 4 per project; the other goes on', async () => {
  const started = new Map<number, number>();
  let answer = () => {};
  const answered = new Promise<void>((resolve) => {
    answer = resolve;
  });
  const findCustomer = createFindCustomer({
    async readClaims(shard, projectId, customers) {
      if (shard === 0) {
        started.set(projectId, (started.get(projectId) ?? 0) + 1);
        await answered;
      }
      return customers.map(() => undefined);
    },
    findRefused: async (_projectId, asked) => asked.map(() => []),
    findVersioned: async () => new Map(),
    shards: 2,
    budget: { turnMs: 60_000, workMs: 60_000 },
    maxInFlight: 2,
    breaker: new CircuitBreaker({ onFailure: () => {} }),
  });
  const idsOf = (projectId: number, shard: number) => ids.filter((id) => shardOf(projectId, id, 2) === shard);
  const waiting: Promise<unknown>[] = [];
  for (const projectId of [1, 2, 3, 4, 5, 6, 7, 8, 9]) {
    for (const customerId of idsOf(projectId, 0).slice(0, 5)) {
      waiting.push(findCustomer(projectId, { customerId }));
      await new Promise(setImmediate); // so that the next read has a call of its own
    }
  }
  for (const customerId of idsOf(1, 1).slice(0, 2)) expect(await findCustomer(1, { customerId })).toMatchObject({});
  expect([...started]).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((projectId) => [projectId, 4]));
  answer();
  await Promise.all(waiting);
  expect(started.has(9)).toBe(true);
});

test('an entry is queued if the versions of a job include its version, whatever the order and overlaps of the jobs', async () => {
  const range = fc.tuple(fc.integer({ min: 1, max: 100 }), fc.nat(20)).map(([first, more]): [number, number] => {
    return [first, first + more];
  });
  await fc.assert(
    fc.asyncProperty(fc.array(range), async (ranges) => {
      const findQueued = createFindQueued({
        listJobs: async () => ranges.map(([first, last]) => ({ versions: [first, last] as [number, number] })),
        ...{ shards: 1, budget: { workMs: 60_000 } },
      });
      const versions = Array.from({ length: 122 }, (_, version) => version);
      const found = await Promise.all(versions.map((version) => findQueued(1, { customerId: 'a', version })));
      expect(found).toEqual(versions.map((v) => ranges.some(([first, last]) => first <= v && v <= last)));
    }),
  );
});
