import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS, type Backend, query, startRedis, waitFor, withRedis } from '@opm/testkit';
import { Redis } from 'ioredis';
import type { KeptAnswer, KeyedRequest, Known } from '../src/idempotency.js';
import { connectQueueBackend, type QueueBackend } from '../src/queue-backend.js';
import { toHashTag } from '../src/redis/hash-tag.js';
import { countBytes, countRows, fillShare } from './idempotency-share.js';

const PROJECT = 7;
const LEASE_MS = 60_000;
const KEEP_MS = 24 * 60 * 60 * 1_000;
const FIRST: Known = { state: 'first' };
const IN_FLIGHT: Known = { state: 'in-flight' };
const OTHER: Known = { state: 'other' };
const NO_ROOM: Known = { state: 'no-room' };
const CREATED: KeptAnswer = { status: 201, body: '{"statusCode":201,"message":"OK - Created"}' };
const UPDATED: KeptAnswer = { status: 202, body: '{"statusCode":202,"message":"OK - Update accepted"}' };
const answered = (answer: KeptAnswer): Known => ({ state: 'answered', answer });

describe.each(BACKENDS)('first answers on %s:', (_, createBackend) => {
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
  const begin = async ({ idempotency }: QueueBackend, request: KeyedRequest, leaseMs = LEASE_MS) =>
    (await idempotency.begin(1, PROJECT, [request], leaseMs))[0];
  const end = async ({ idempotency }: QueueBackend, request: KeyedRequest, answer?: KeptAnswer, keepMs = KEEP_MS) =>
    (await idempotency.end(1, PROJECT, [{ ...request, answer }], keepMs))[0];
  /** As somebody who comes when the lease is over. */
  const takeOver = (request: KeyedRequest) =>
    waitFor(async () => (await begin(other, request))?.state === 'first', { description: 'the end of the lease' });

  test('of many who come with a key at the same time one is the first, in one call and over many', async () => {
    const request = fresh();
    const calls = Array.from({ length: 30 }, (_call, i) =>
      (i % 2 ? one : other).idempotency.begin(1, PROJECT, [again(request), again(request), again(request)], LEASE_MS),
    );
    const known = (await Promise.all(calls)).flat();
    expect(known.filter(({ state }) => state === 'first')).toHaveLength(1);
    expect(known.filter(({ state }) => state === 'in-flight')).toHaveLength(89);
  });

  test('the first answer is given to everybody who comes later, byte for byte', async () => {
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

  test('another request is told that the key is taken, before and after the first is answered', async () => {
    const request = fresh();
    const different = { ...again(request), fingerprint: 'b body' };
    await begin(one, request);
    expect(await begin(other, different)).toEqual(OTHER);
    await end(one, request, CREATED);
    expect(await begin(other, different)).toEqual(OTHER);
    expect(await begin(other, again(request))).toEqual(answered(CREATED));
  });

  test('a request that is not decided frees its key, also for another request', async () => {
    const request = fresh();
    await begin(one, request);
    expect(await end(one, request)).toEqual(FIRST);
    expect(await begin(other, { ...again(request), fingerprint: 'b body' })).toEqual(FIRST);
  });

  test('a lease ends by itself, and whoever takes the key over has it for a whole lease', async () => {
    const request = fresh();
    await begin(one, request, 50);
    await takeOver(again(request));
    expect(await begin(one, again(request))).toEqual(IN_FLIGHT);
  });

  test('an answer that comes after its lease is kept where nobody else has come', async () => {
    const request = fresh();
    const probe = fresh();
    await begin(one, request, 1);
    await begin(one, probe, 1);
    await takeOver(again(probe));
    expect(await end(one, request, CREATED)).toEqual(FIRST);
    expect(await begin(other, again(request))).toEqual(answered(CREATED));
  });

  test('an answer that comes after another attempt has the key changes nothing, and learns what that was told', async () => {
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

  test('what is kept is kept for its time, and then the key is free', async () => {
    const request = fresh();
    await begin(one, request);
    await end(one, request, CREATED, 300);
    await takeOver({ ...again(request), fingerprint: 'b body' });
  });

  test('many are begun and ended in one call, each for itself and in order', async () => {
    const requests = Array.from({ length: 200 }, fresh);
    const reversed = [...requests].reverse();
    expect(await one.idempotency.begin(0, PROJECT, requests, LEASE_MS)).toEqual(requests.map(() => FIRST));
    const ended = requests.map((request, i) => ({
      ...request,
      answer: i % 3 ? { status: 200 + i, body: `${i}` } : undefined,
    }));
    const reversedOther = other.idempotency.begin(0, PROJECT, reversed.map(again), LEASE_MS);
    expect(await reversedOther).toEqual(requests.map(() => IN_FLIGHT));
    expect(await one.idempotency.end(0, PROJECT, ended, KEEP_MS)).toEqual(requests.map(() => FIRST));
    expect(await other.idempotency.begin(0, PROJECT, reversed.map(again), LEASE_MS)).toEqual(
      [...ended].reverse().map(({ answer }) => (answer ? answered(answer) : FIRST)),
    );
  });

  test('calls about the same keys in different orders do not lock each other out', async () => {
    const requests = Array.from({ length: 50 }, fresh);
    const calls = Array.from({ length: 20 }, async (_call, i) => {
      const mine = (i % 2 ? requests : [...requests].reverse()).map(again);
      await (i % 2 ? one : other).idempotency.begin(1, PROJECT, mine, LEASE_MS);
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
    (await other.idempotency.begin(1, projectId, [request], LEASE_MS))[0];

  test('a project whose answers take its share gets no new key until they end; its old ones are answered', async () => {
    const [full, others] = [100, 101];
    const kept = fresh();
    const underWay = fresh();
    await beginOf(full, kept);
    await one.idempotency.end(1, full, [{ ...kept, answer: CREATED }], KEEP_MS);
    await beginOf(full, underWay);
    expect(await countBytes(backend, full)).toBeGreaterThan(200);
    await fillShare(backend, full);

    expect(await beginOf(full, fresh())).toEqual(NO_ROOM);
    expect(await beginOf(full, again(kept))).toEqual(answered(CREATED));
    expect(await beginOf(full, { ...again(kept), fingerprint: 'b body' })).toEqual(OTHER);
    expect(await beginOf(full, again(underWay))).toEqual(IN_FLIGHT);
    expect(await beginOf(others, fresh())).toEqual(FIRST);
    const many = [fresh(), again(kept), fresh()];
    expect(await one.idempotency.begin(1, full, many, LEASE_MS)).toEqual([NO_ROOM, answered(CREATED), NO_ROOM]);
    expect(await one.idempotency.end(1, full, [{ ...underWay, answer: CREATED }], KEEP_MS)).toEqual([FIRST]);

    await fillShare(backend, full, { hoursAgo: 1 });
    expect(await beginOf(full, fresh())).toEqual(FIRST);
  });

  test('what counts is what is kept: no key that is freed or replayed, and of a long answer what it takes compressed', async () => {
    const projectId = 102;
    const requests = Array.from({ length: 100 }, fresh);
    const end = (some: KeyedRequest[], answer?: KeptAnswer) =>
      one.idempotency.end(
        0,
        projectId,
        some.map((request) => ({ ...request, answer })),
        KEEP_MS,
      );
    await one.idempotency.begin(0, projectId, requests, LEASE_MS);
    await end(requests.slice(0, 50));
    expect(await countBytes(backend, projectId)).toBe(0);
    await end(requests.slice(50), CREATED);
    const bytes = await countBytes(backend, projectId);
    expect(bytes / 50).toBeGreaterThan(200);
    expect(bytes / 50).toBeLessThan(400);
    await one.idempotency.begin(0, projectId, requests.slice(50).map(again), LEASE_MS);
    await end(requests.slice(50).map(again), CREATED);
    expect(await countBytes(backend, projectId)).toBe(bytes);

    await end([fresh()], { status: 207, body: JSON.stringify(Array(1_000).fill(CREATED)) });
    expect((await countBytes(backend, projectId)) - bytes).toBeLessThan(5_000);
  });

  test('what is over is removed from the store, and nothing else', async () => {
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
    for (const shard of [0, 1]) await one.idempotency.begin(shard, 103, [fresh()], LEASE_MS); // counting removes it on Redis
    expect(await countRows(backend, 103)).toBe(0);
  });
});

test('on Redis a project’s share is a tenth of maxmemory, and what it may have more of goes on to be accepted', async () => {
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
    const [known] = await queue.idempotency.begin(call % 2, PROJECT, requests, LEASE_MS);
    if (known?.state === 'no-room') break;
    const ended = requests.map((request) => ({ ...request, answer: CREATED }));
    await queue.idempotency.end(call % 2, PROJECT, ended, KEEP_MS);
    kept += requests.length;
  }
  expect(kept * 290).toBeGreaterThan(0.08 * 32 * 1024 * 1024);
  expect(await queue.memoryUse()).toBeLessThan(0.3);
  expect(
    (await queue.idempotency.begin(0, PROJECT + 1, [{ id: 'i', fingerprint: 'f', token: 't' }], LEASE_MS))[0],
  ).toEqual(FIRST);
  await queue.close();
  await redis.stop();
  await backend.drop();
});

test('on Redis a key is named by its shard’s hash tag, takes less than 300 bytes, and goes by itself', async () => {
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
  await idempotency.begin(1, PROJECT, [request], LEASE_MS);
  const begun = await read();
  await idempotency.end(1, PROJECT, [{ ...request, answer: CREATED }], KEEP_MS);
  const ended = await read();
  expect(Math.max(begun.bytes, ended.bytes)).toBeLessThan(300);
  expect(begun.ttl).toBeGreaterThan(0);
  expect(begun.ttl).toBeLessThanOrEqual(LEASE_MS);
  expect(ended.ttl).toBeGreaterThan(KEEP_MS / 2);
  expect(ended.ttl).toBeLessThanOrEqual(KEEP_MS);
  redis.disconnect();
  await close();
  await backend.drop();
});
