import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { RateLimit } from '@opm/core';
import { ANSWER_TIMEOUT_MS, BACKENDS, type Backend } from '@opm/testkit';
import fc from 'fast-check';
import { connectQueueBackend, type QueueBackend } from '../src/queue-backend.js';
import type { LeaseCall, Leased } from '../src/token-buckets.js';

type Step = LeaseCall & { limit: RateLimit };

/** What a bucket is, said once more and as plainly as can be: full at first, it gains with time and never overflows. */
function createModel() {
  let tokens: number | undefined;
  let last = 0;
  return ({ limit: { rate, burst }, wanted, returned }: Step, clock: number): Omit<Leased, 'clock'> => {
    const gained = Math.max(0, clock - last) * rate; // millionths
    tokens = Math.min(burst * 1e6, Math.max(0, tokens ?? burst * 1e6) + returned * 1e6 + gained);
    last = clock;
    const granted = Math.min(wanted, Math.floor(tokens / 1e6));
    tokens -= granted * 1e6;
    return { granted, available: tokens / 1e6 };
  };
}

const count = (max: number) => fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max }));
const limits = fc.record({
  rate: fc.constantFrom(1, 3, 100, 7_919, 1_000_000),
  burst: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(1_000, 1_000_000)),
});
const calls = fc.array(fc.record({ wanted: count(1_000_000), returned: count(1_000) }), {
  minLength: 1,
  maxLength: 12,
});

describe.each(BACKENDS)('token buckets on %s:', (_, createBackend) => {
  let backend: Backend;
  let ingresses: QueueBackend[];
  let projectId = 0;

  beforeAll(async () => {
    backend = await createBackend();
    const options = { signal: new AbortController().signal, onError: () => {} };
    const connect = () =>
      connectQueueBackend({ ...backend, shards: 3, answerTimeoutMs: ANSWER_TIMEOUT_MS }, 'worker', options);
    ingresses = await Promise.all([connect(), connect()]);
  });
  afterAll(async () => {
    await Promise.all(ingresses.map((ingress) => ingress.close()));
    await backend.drop();
  });

  const lease = (i: number, { limit, ...call }: Step) =>
    (ingresses[i % 2] as QueueBackend).buckets.lease(projectId, limit, call);

  test('whatever is leased and returned, a bucket holds exactly what the model does at the same time', async () => {
    await fc.assert(
      fc.asyncProperty(limits, calls, async (limit, steps) => {
        projectId++;
        const model = createModel();
        for (const [i, step] of steps.entries()) {
          const { clock, ...leased } = await lease(i, { limit, ...step });
          expect(leased).toEqual(model({ limit, ...step }, clock));
        }
      }),
      { numRuns: 60 },
    );
  });

  test('two ingresses that take all they can get at the same time get the burst and what the time brings, and not one more', async () => {
    for (const limit of [
      { rate: 1, burst: 10 },
      { rate: 5_000, burst: 300 },
    ]) {
      projectId++;
      const step = { limit, wanted: 7, returned: 0 };
      const leased = await Promise.all(Array.from({ length: 200 }, (_, i) => lease(i, step)));
      const inOrder = leased.sort((a, b) => a.clock - b.clock || b.available - a.available);
      const model = createModel();
      for (const { clock, ...lease } of inOrder) expect(lease).toEqual(model(step, clock));
      const seconds = ((inOrder.at(-1)?.clock ?? 0) - (inOrder[0]?.clock ?? 0)) / 1e6;
      const granted = leased.reduce((sum, lease) => sum + lease.granted, 0);
      expect(granted).toBeLessThanOrEqual(limit.burst + limit.rate * seconds);
    }
  });

  test('another limit counts from its first lease on: nobody waits for longer than a new burst takes, or gets more', async () => {
    projectId++;
    const all = { wanted: 1_000_000, returned: 0 };
    const small = { rate: 1, burst: 10 };
    expect((await lease(0, { limit: { rate: 1, burst: 1_000 }, ...all })).granted).toBe(1_000);
    expect((await lease(1, { limit: small, ...all })).available).toBeLessThan(1);
    // Ten are missing, which is as much as this bucket can lack.
    expect((await lease(0, { limit: { rate: 1, burst: 100 }, ...all })).granted).toBeGreaterThanOrEqual(90);
    expect((await lease(1, { limit: { rate: 1_000_000, burst: 100 }, ...all })).granted).toBeGreaterThanOrEqual(1);
  });

  test('the tokens of many projects that are leased at the same time, in any order, come each from its own bucket', async () => {
    const projectIds = Array.from({ length: 300 }, () => ++projectId);
    const wanted = 1_000;
    const leaseAll = (queue: QueueBackend, ids: number[]) =>
      Promise.all(
        ids.map(async (id, i) => {
          const limit = { rate: 1, burst: 1 + (id % 7) };
          return [id, (await queue.buckets.lease(id, limit, { wanted: i % 2 ? wanted : 0, returned: 0 })).granted];
        }),
      );
    const [one, other] = ingresses as [QueueBackend, QueueBackend];
    const granted = await Promise.all([leaseAll(one, projectIds), leaseAll(other, projectIds.toReversed())]);
    const sums = new Map(projectIds.map((id) => [id, 0]));
    for (const [id = 0, count = 0] of granted.flat()) sums.set(id, (sums.get(id) ?? 0) + count);
    expect([...sums]).toEqual(projectIds.map((id) => [id, 1 + (id % 7)]));
  });

  test('projects have buckets of their own', async () => {
    const limit = { rate: 1, burst: 2 };
    for (let i = 0; i < 3; i++) {
      projectId++;
      expect(await lease(i, { limit, wanted: 3, returned: 0 })).toMatchObject({ granted: 2, available: 0 });
    }
  });
});
