import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS, type Backend, query, startRedis, waitFor, withRedis } from '@opm/testkit';
import { Redis } from 'ioredis';
import type { KeyedRequest, KeyState, StoredResponse } from '../src/idempotency.js';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { QueueBackend } from '../src/queue-store.js';
import { toHashTag } from '../src/redis/redis-queue-backend.js';
import { countBytes, countRows, fillShare } from './idempotency-share.js';

const PROJECT = 7;
const LOCK_MS = 60_000;
const KEEP_MS = 24 * 60 * 60 * 1_000;
const FIRST: KeyState = { state: 'first' };
const IN_FLIGHT: KeyState = { state: 'in-flight' };
const OTHER: KeyState = { state: 'other' };
const NO_ROOM: KeyState = { state: 'no-room' };
const CREATED: StoredResponse = { status: 201, body: '{"statusCode":201,"message":"OK - Created"}' };
const UPDATED: StoredResponse = { status: 202, body: '{"statusCode":202,"message":"OK - Update accepted"}' };
const answered = (answer: StoredResponse): KeyState => ({ state: 'answered', answer });

describe.each(BACKENDS)('idempotency on %s:', (_, createBackend) => {
  let backend: Backend;
  let one: QueueBackend;
  let other: QueueBackend;

  beforeAll(async () => {
    backend = await createBackend();
    const options = { signal: new AbortController().signal, onError: () => {} };
    one = await connectQueueBackend({ ...backend, shards: 2 }, 'producer', options);
    other = await connectQueueBackend({ ...backend, shards: 2 }, 'producer', options);
  });
  afterAll(async () => {
    await one.close();
    await other.close();
    await backend.drop();
  });

  let ids = 0;
  let tokens = 0;
  const fresh = (): KeyedRequest => again({ id: `id ${ids++}`, fingerprint: 'a body', token: '' });
  const again = (request: KeyedRequest): KeyedRequest => ({ ...request, token: `token ${tokens++}` });
  const begin = async ({ idempotency }: QueueBackend, request: KeyedRequest, lockMs = LOCK_MS) =>
    (await idempotency.begin(1, PROJECT, [request], lockMs))[0];
  const end = async ({ idempotency }: QueueBackend, request: KeyedRequest, answer?: StoredResponse, keepMs = KEEP_MS) =>
    (await idempotency.end(1, PROJECT, [{ ...request, answer }], keepMs))[0];
  /** Takes the key over after its lock has expired. */
  const takeOver = (request: KeyedRequest) =>
    waitFor(async () => (await begin(other, request))?.state === 'first', { description: 'the key lock to expire' });

  test('of many simultaneous requests with a key, exactly one is the first, within a call and across calls', async () => {
    const request = fresh();
    const calls = Array.from({ length: 30 }, (_call, i) =>
      (i % 2 ? one : other).idempotency.begin(1, PROJECT, [again(request), again(request), again(request)], LOCK_MS),
    );
    const known = (await Promise.all(calls)).flat();
    expect(known.filter(({ state }) => state === 'first')).toHaveLength(1);
    expect(known.filter(({ state }) => state === 'in-flight')).toHaveLength(89);
  });

  test('later requests get the stored response, byte for byte', async () => {
    const answers = [
      CREATED,
      { status: 404, body: '' },
      { status: 207, body: JSON.stringify(Array(1_000).fill(CREATED)) },
      { status: 400, body: `{"message":"${'\\u0000 ü 😀 = : ~ '.repeat(100)}"}` },
    ];
    for (const answer of answers) {
      const request = fresh();
      expect(await begin(one, request)).toEqual(FIRST);
      expect(await end(one, request, answer)).toEqual(FIRST);
      expect(await begin(one, again(request))).toEqual(answered(answer));
      expect(await begin(other, again(request))).toEqual(answered(answer));
    }
  });

  test('a different request with the key gets `other`, before and after the first is answered', async () => {
    const request = fresh();
    const different = { ...again(request), fingerprint: 'b body' };
    await begin(one, request);
    expect(await begin(other, different)).toEqual(OTHER);
    await end(one, request, CREATED);
    expect(await begin(other, different)).toEqual(OTHER);
    expect(await begin(other, again(request))).toEqual(answered(CREATED));
  });

  test('a request without an outcome frees its key, also for a different request', async () => {
    const request = fresh();
    await begin(one, request);
    expect(await end(one, request)).toEqual(FIRST);
    expect(await begin(other, { ...again(request), fingerprint: 'b body' })).toEqual(FIRST);
  });

  test('a key lock expires, and the attempt that takes the key over gets a full lock', async () => {
    const request = fresh();
    await begin(one, request, 50);
    await takeOver(again(request));
    expect(await begin(one, again(request))).toEqual(IN_FLIGHT);
  });

  test('a response after the key lock has expired is stored if no other attempt took the key', async () => {
    const request = fresh();
    const probe = fresh();
    await begin(one, request, 1);
    await begin(one, probe, 1);
    await takeOver(again(probe));
    expect(await end(one, request, CREATED)).toEqual(FIRST);
    expect(await begin(other, again(request))).toEqual(answered(CREATED));
  });

  test('a response after another attempt took the key changes nothing, and gets the response of that attempt', async () => {
    const late = fresh();
    const second = again(late);
    await begin(one, late, 1);
    await takeOver(second);
    expect(await end(one, late, CREATED)).toEqual(IN_FLIGHT);
    expect(await end(one, late)).toEqual(FIRST);
    expect(await begin(one, again(late))).toEqual(IN_FLIGHT);
    expect(await end(other, second, UPDATED)).toEqual(FIRST);
    expect(await end(one, late, CREATED)).toEqual(answered(UPDATED));
    expect(await end(one, late)).toEqual(FIRST);
    expect(await begin(one, again(late))).toEqual(answered(UPDATED));
  });

  test('a stored response expires, and then the key is free', async () => {
    const request = fresh();
    await begin(one, request);
    await end(one, request, CREATED, 300);
    await takeOver({ ...again(request), fingerprint: 'b body' });
  });

  test('one call begins or ends many requests independently and in order', async () => {
    const requests = Array.from({ length: 200 }, fresh);
    const reversed = [...requests].reverse();
    expect(await one.idempotency.begin(0, PROJECT, requests, LOCK_MS)).toEqual(requests.map(() => FIRST));
    const ended = requests.map((request, i) => ({
      ...request,
      answer: i % 3 ? { status: 200 + i, body: `${i}` } : undefined,
    }));
    const reversedOther = other.idempotency.begin(0, PROJECT, reversed.map(again), LOCK_MS);
    expect(await reversedOther).toEqual(requests.map(() => IN_FLIGHT));
    expect(await one.idempotency.end(0, PROJECT, ended, KEEP_MS)).toEqual(requests.map(() => FIRST));
    expect(await other.idempotency.begin(0, PROJECT, reversed.map(again), LOCK_MS)).toEqual(
      [...ended].reverse().map(({ answer }) => (answer ? answered(answer) : FIRST)),
    );
  });

  test('calls with the same keys in different orders do not deadlock', async () => {
    const requests = Array.from({ length: 50 }, fresh);
    const calls = Array.from({ length: 20 }, async (_call, i) => {
      const mine = (i % 2 ? requests : [...requests].reverse()).map(again);
      await (i % 2 ? one : other).idempotency.begin(1, PROJECT, mine, LOCK_MS);
      return (i % 2 ? one : other).idempotency.end(
        1,
        PROJECT,
        mine.map((request) => ({ ...request, answer: CREATED })),
        KEEP_MS,
      );
    });
    expect((await Promise.all(calls)).flat()).toHaveLength(1_000);
  });

  const beginOf = async (projectId: number, request: KeyedRequest) =>
    (await other.idempotency.begin(1, projectId, [request], LOCK_MS))[0];

  test('a project at its limit gets no new key until responses expire; its old keys are answered', async () => {
    const [full, others] = [100, 101];
    const kept = fresh();
    const inFlight = fresh();
    await beginOf(full, kept);
    await one.idempotency.end(1, full, [{ ...kept, answer: CREATED }], KEEP_MS);
    await beginOf(full, inFlight);
    expect(await countBytes(backend, full)).toBeGreaterThan(200);
    await fillShare(backend, full);

    expect(await beginOf(full, fresh())).toEqual(NO_ROOM);
    expect(await beginOf(full, again(kept))).toEqual(answered(CREATED));
    expect(await beginOf(full, { ...again(kept), fingerprint: 'b body' })).toEqual(OTHER);
    expect(await beginOf(full, again(inFlight))).toEqual(IN_FLIGHT);
    expect(await beginOf(others, fresh())).toEqual(FIRST);
    const many = [fresh(), again(kept), fresh()];
    expect(await one.idempotency.begin(1, full, many, LOCK_MS)).toEqual([NO_ROOM, answered(CREATED), NO_ROOM]);
    expect(await one.idempotency.end(1, full, [{ ...inFlight, answer: CREATED }], KEEP_MS)).toEqual([FIRST]);

    await fillShare(backend, full, { hoursAgo: 1 });
    expect(await beginOf(full, fresh())).toEqual(FIRST);
  });

  test('the limit counts stored bytes: no freed or replayed keys, and long responses after compression', async () => {
    const projectId = 102;
    const requests = Array.from({ length: 100 }, fresh);
    const end = (some: KeyedRequest[], answer?: StoredResponse) =>
      one.idempotency.end(
        0,
        projectId,
        some.map((request) => ({ ...request, answer })),
        KEEP_MS,
      );
    await one.idempotency.begin(0, projectId, requests, LOCK_MS);
    await end(requests.slice(0, 50));
    expect(await countBytes(backend, projectId)).toBe(0);
    await end(requests.slice(50), CREATED);
    const bytes = await countBytes(backend, projectId);
    expect(bytes / 50).toBeGreaterThan(200);
    expect(bytes / 50).toBeLessThan(400);
    await one.idempotency.begin(0, projectId, requests.slice(50).map(again), LOCK_MS);
    await end(requests.slice(50).map(again), CREATED);
    expect(await countBytes(backend, projectId)).toBe(bytes);

    await end([fresh()], { status: 207, body: JSON.stringify(Array(1_000).fill(CREATED)) });
    expect((await countBytes(backend, projectId)) - bytes).toBeLessThan(5_000);
  });

  test('only expired keys are removed from the store', async () => {
    const count = async () =>
      backend.redisUrl === undefined
        ? Number((await query(backend.databaseUrl, 'SELECT count(*) FROM admission.idempotency_keys'))[0]?.count)
        : withRedis(
            backend.redisUrl,
            async (redis) => (await redis.keys(`{${backend.prefix}-*}:idempotency:*`)).length,
          );
    await fillShare(backend, 103, { hoursAgo: 1 });
    const before = await count();
    const [over, unanswered, kept] = [fresh(), fresh(), fresh()];
    await begin(one, unanswered, 1);
    for (const request of [over, kept]) await begin(one, request);
    await end(one, over, CREATED, 1);
    await end(one, kept, CREATED);
    const isSwept = async () => {
      await one.idempotency.sweep();
      return (await count()) <= before + 1;
    };
    await waitFor(isSwept, { description: 'the removal' });
    expect(await begin(one, again(kept))).toEqual(answered(CREATED));
    // On Redis, the next count of bytes removes expired ones.
    for (const shard of [0, 1]) await one.idempotency.begin(shard, 103, [fresh()], LOCK_MS);
    expect(await countRows(backend, 103)).toBe(0);
  });
});

test('on Redis a project’s limit is a tenth of maxmemory, and other projects still get keys', async () => {
  const redis = await startRedis();
  const [[, createBackend]] = BACKENDS as [(typeof BACKENDS)[number]];
  const backend = await createBackend();
  await withRedis(redis.url, (client) => client.config('SET', 'maxmemory', 32 * 1024 * 1024));
  const options = { signal: new AbortController().signal, onError: () => {} };
  const queue = await connectQueueBackend({ ...backend, redisUrl: redis.url, shards: 2 }, 'producer', options);
  await queue.memoryUse();
  let kept = 0;
  for (let call = 0; ; call++) {
    const requests = Array.from({ length: 200 }, (_, i) => ({
      ...{ id: `${'i'.repeat(30)} ${call} ${i}`, fingerprint: 'f'.repeat(43), token: 't' },
    }));
    const [known] = await queue.idempotency.begin(call % 2, PROJECT, requests, LOCK_MS);
    if (known?.state === 'no-room') break;
    const ended = requests.map((request) => ({ ...request, answer: CREATED }));
    await queue.idempotency.end(call % 2, PROJECT, ended, KEEP_MS);
    kept += requests.length;
  }
  expect(kept * 290).toBeGreaterThan(0.08 * 32 * 1024 * 1024);
  expect(await queue.memoryUse()).toBeLessThan(0.3);
  expect(
    (await queue.idempotency.begin(0, PROJECT + 1, [{ id: 'i', fingerprint: 'f', token: 't' }], LOCK_MS))[0],
  ).toEqual(FIRST);
  await queue.close();
  await redis.stop();
  await backend.drop();
});

test('on Redis a key has its shard’s hash tag, takes less than 300 bytes, and expires', async () => {
  const [[, createBackend]] = BACKENDS as [(typeof BACKENDS)[number]];
  const { prefix, redisUrl = '', ...backend } = await createBackend();
  const options = { signal: new AbortController().signal, onError: () => {} };
  const { idempotency, close } = await connectQueueBackend(
    { ...backend, redisUrl, prefix, shards: 2 },
    'producer',
    options,
  );
  const request = { id: 'i'.repeat(43), fingerprint: 'f'.repeat(43), token: 't'.repeat(36) };
  const redis = new Redis(redisUrl);
  const read = async () => {
    const [key = '', ...others] = await redis.keys(`${toHashTag(prefix, 1, 2)}:idempotency:*`);
    expect(others).toEqual([]);
    return { bytes: Number(await redis.memory('USAGE', key)), ttl: await redis.pttl(key) };
  };
  await idempotency.begin(1, PROJECT, [request], LOCK_MS);
  const begun = await read();
  await idempotency.end(1, PROJECT, [{ ...request, answer: CREATED }], KEEP_MS);
  const ended = await read();
  expect(Math.max(begun.bytes, ended.bytes)).toBeLessThan(300);
  expect(begun.ttl).toBeGreaterThan(0);
  expect(begun.ttl).toBeLessThanOrEqual(LOCK_MS);
  expect(ended.ttl).toBeGreaterThan(KEEP_MS / 2);
  expect(ended.ttl).toBeLessThanOrEqual(KEEP_MS);
  redis.disconnect();
  await close();
  await backend.drop();
});
