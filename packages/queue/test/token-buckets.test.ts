import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { RateLimit } from '@opm/core';
import { ANSWER_TIMEOUT_MS, BACKENDS, type Backend } from '@opm/testkit';
import fc from 'fast-check';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { QueueBackend } from '../src/queue-store.js';
import type { ReserveCall, Reserved } from '../src/token-buckets.js';

type Step = ReserveCall & { limit: RateLimit };

/** A simple model of a bucket: full at first, it gains tokens with time and never overflows. */
function createModel() {
  let tokens: number | undefined;
  let last = 0;
  return ({ limit: { rate, burst }, wanted, returned }: Step, clock: number): Omit<Reserved, 'clock'> => {
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

  const reserve = (i: number, { limit, ...call }: Step) =>
    (ingresses[i % 2] as QueueBackend).buckets.reserve(projectId, limit, call);

  test('after any reservations and returns, a bucket holds exactly as many tokens as the model', async () => {
    await fc.assert(
      fc.asyncProperty(limits, calls, async (limit, steps) => {
        projectId++;
        const model = createModel();
        for (const [i, step] of steps.entries()) {
          const { clock, ...reserved } = await reserve(i, { limit, ...step });
          expect(reserved).toEqual(model({ limit, ...step }, clock));
        }
      }),
      { numRuns: 60 },
    );
  });

  test('two ingresses that reserve concurrently get the burst and the rate over time, and not one token more', async () => {
    for (const limit of [
      { rate: 1, burst: 10 },
      { rate: 5_000, burst: 300 },
    ]) {
      projectId++;
      const step = { limit, wanted: 7, returned: 0 };
      const reserved = await Promise.all(Array.from({ length: 200 }, (_, i) => reserve(i, step)));
      const inOrder = reserved.sort((a, b) => a.clock - b.clock || b.available - a.available);
      const model = createModel();
      for (const { clock, ...reserve } of inOrder) expect(reserve).toEqual(model(step, clock));
      const seconds = ((inOrder.at(-1)?.clock ?? 0) - (inOrder[0]?.clock ?? 0)) / 1e6;
      const granted = reserved.reduce((sum, reserve) => sum + reserve.granted, 0);
      expect(granted).toBeLessThanOrEqual(limit.burst + limit.rate * seconds);
    }
  });

  test('a new limit applies from its first reservation on: the debt is at most the new burst', async () => {
    projectId++;
    const all = { wanted: 1_000_000, returned: 0 };
    const small = { rate: 1, burst: 10 };
    expect((await reserve(0, { limit: { rate: 1, burst: 1_000 }, ...all })).granted).toBe(1_000);
    expect((await reserve(1, { limit: small, ...all })).available).toBeLessThan(1);
    // Ten tokens are missing, the maximum debt of the previous burst.
    expect((await reserve(0, { limit: { rate: 1, burst: 100 }, ...all })).granted).toBeGreaterThanOrEqual(90);
    expect((await reserve(1, { limit: { rate: 1_000_000, burst: 100 }, ...all })).granted).toBeGreaterThanOrEqual(1);
  });

  test('concurrent reservations of many projects, in any order, each use their own bucket', async () => {
    const projectIds = Array.from({ length: 300 }, () => ++projectId);
    const wanted = 1_000;
    const reserveAll = (queue: QueueBackend, ids: number[]) =>
      Promise.all(
        ids.map(async (id, i) => {
          const limit = { rate: 1, burst: 1 + (id % 7) };
          return [id, (await queue.buckets.reserve(id, limit, { wanted: i % 2 ? wanted : 0, returned: 0 })).granted];
        }),
      );
    const [one, other] = ingresses as [QueueBackend, QueueBackend];
    const granted = await Promise.all([reserveAll(one, projectIds), reserveAll(other, projectIds.toReversed())]);
    const sums = new Map(projectIds.map((id) => [id, 0]));
    for (const [id = 0, count = 0] of granted.flat()) sums.set(id, (sums.get(id) ?? 0) + count);
    expect([...sums]).toEqual(projectIds.map((id) => [id, 1 + (id % 7)]));
  });

  test('each project has its own bucket', async () => {
    const limit = { rate: 1, burst: 2 };
    for (let i = 0; i < 3; i++) {
      projectId++;
      expect(await reserve(i, { limit, wanted: 3, returned: 0 })).toMatchObject({ granted: 2, available: 0 });
    }
  });
});
