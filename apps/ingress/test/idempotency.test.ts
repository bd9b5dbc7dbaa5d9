import { hash } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, type EntryQueue, type StoredResponse } from '@opm/queue';
import { createStore } from '@opm/store';
import {
  ANSWER_TIMEOUT_MS,
  BACKENDS,
  type Backend,
  startApp,
  startProxy,
  type TcpProxy,
  type TestApp,
  waitFor,
} from '@opm/testkit';
import fc from 'fast-check';
import { fillShare } from '../../../packages/queue/test/idempotency-share.js';
import { expireKeys, readKeys } from './idempotency-store.js';

type Sent = {
  key?: string;
  method?: string;
  path?: string;
  body?: string;
  headers?: Record<string, string>;
  apiKey?: string;
};
type Answer = { status: number; body: string; replayed: boolean; retryAfter: string | null };

const HOUR_MS = 60 * 60 * 1_000;
const DAY_MS = 24 * HOUR_MS;
const CREATED = { status: 201, body: '{"statusCode":201,"message":"OK - Created"}', replayed: false, retryAfter: null };
const UPDATED = { ...CREATED, status: 202, body: '{"statusCode":202,"message":"OK - Update accepted"}' };
const REUSED = {
  ...{ status: 422, replayed: false, retryAfter: null },
  body: '{"statusCode":422,"error":"Unprocessable Entity","message":"idempotency key belongs to another request"}',
};
const IN_USE = {
  ...{ status: 409, replayed: false, retryAfter: '1' },
  body: '{"statusCode":409,"error":"Conflict","message":"first request with this idempotency key is not answered yet, try again"}',
};
const UNDECIDED = 'entry was not accepted, try again';
const replayOf = (answer: Answer): Answer => ({ ...answer, replayed: true });

const createSend =
  (apiKeyOfAll: string) =>
  async (ingress: TestApp, sent: Sent): Promise<Answer> => {
    const { key, method = 'POST', path = '/entry', body, headers, apiKey = apiKeyOfAll } = sent;
    const response = await fetch(ingress.url + path, {
      method,
      headers: { 'x-api-key': apiKey, ...(key !== undefined && { 'idempotency-key': key }), ...headers },
      ...(body !== undefined && { body }),
    });
    return {
      status: response.status,
      body: await response.text(),
      replayed: response.headers.get('idempotent-replayed') === 'true',
      retryAfter: response.headers.get('retry-after'),
    };
  };

describe.each(BACKENDS)('requests with an idempotency key, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let queue: EntryQueue;
  let one: TestApp;
  let other: TestApp;
  let projectId: number;
  let otherProject: string;
  let send: ReturnType<typeof createSend>;

  beforeAll(async () => {
    backend = await createPlace();
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const acme = await store.projects.create('acme');
    projectId = acme.projectId;
    send = createSend(acme.apiKey);
    otherProject = (await store.projects.create('other')).apiKey;
    await store.close();
    queue = await createEntryQueue({ ...backend, shards: 1, signal: new AbortController().signal, onError: () => {} });
    [one, other] = await Promise.all([startApp('ingress', backend.env), startApp('ingress', backend.env)]);
  });
  afterAll(async () => {
    await Promise.all([one?.stop(), other?.stop()]);
    await queue?.close();
    await backend?.drop();
  });

  let nextId = 1;
  const fresh = (): { key: string; body: string } => {
    const id = nextId++;
    return { key: `key-${id}`, body: `{"customerId":"c${id}","customerPhone":"+1"}` };
  };
  /** No worker runs, so the backlog counts all accepted entries. */
  const countEffects = async () => (await queue.load()).entries;
  const readKeptKeys = async () => (await readKeys(backend)).filter(({ leftMs }) => leftMs > 0);
  /** Counts 503s that do not tell whether the entry was accepted. */
  let undecided = 0;
  /** Retries as a partner does; a busy machine may refuse a request. */
  const sendOn = async (ingress: TestApp, sent: Sent): Promise<Answer> => {
    const answer = await send(ingress, sent);
    if (answer.status !== 503) return answer;
    if (answer.body.includes(UNDECIDED)) undecided++;
    return sendOn(ingress, sent);
  };

  /** Tries another customer if the machine is too busy to tell whether the customer is new. */
  const create = async (ingress: TestApp): Promise<ReturnType<typeof fresh>> => {
    const sent = fresh();
    const answer = await sendOn(ingress, sent);
    if (answer.status === 202) return create(ingress);
    expect(answer).toEqual(CREATED);
    return sent;
  };

  test('a retried create is 201 again through any ingress, even after later entries, and is accepted once', async () => {
    const sent = await create(one);
    const before = await countEffects();
    expect(await sendOn(other, { body: sent.body })).toEqual(UPDATED);
    expect(await sendOn(other, sent)).toEqual(replayOf(CREATED));
    expect(await sendOn(one, { ...sent, key: `"${sent.key}"` })).toEqual(replayOf(CREATED));
    expect(await countEffects()).toBe(before + 1);
  });

  test.each<[string, string, string, number]>([
    ['an invalid entry', '/entry', '{"customerId":true,"customerEmail":"jane@example.com"}', 400],
    ['broken JSON', '/entry', '{', 400],
    ['a batch without a valid entry', '/entries', '[{"customerId":1},5]', 207],
  ])('%s stores no response, so the corrected request can use the same key', async (_what, path, wrong, status) => {
    const { key, body } = fresh();
    await expireKeys(backend);
    const refused = await sendOn(one, { key, path, body: wrong });
    expect([refused.status, refused.replayed]).toEqual([status, false]);
    expect(await readKeptKeys()).toEqual([]);
    expect(await sendOn(other, { key, path, body: wrong })).toEqual(refused);
    const corrected = { key, path, body: path === '/entries' ? `[${body}]` : body };
    const first = await sendOn(one, corrected);
    expect([first.status < 300, first.replayed]).toEqual([true, false]);
    expect(await sendOn(other, corrected)).toEqual(replayOf(first));
    expect(await sendOn(one, { key, path, body: wrong })).toEqual(REUSED);
  });

  test('a retried erasure gets its first answer', async () => {
    const { key, body } = fresh();
    const path = `/entry/${JSON.parse(body).customerId}`;
    const [known, unknown] = [
      { key, path, method: 'DELETE' },
      { ...fresh(), body: undefined, path, method: 'DELETE' },
    ];
    const { body: _body, ...erasure } = unknown;
    const notThere = await sendOn(one, erasure);
    expect(notThere.status).toBe(404);
    expect((await sendOn(one, { body })).status).toBeLessThan(300);
    expect(await sendOn(other, erasure)).toEqual(replayOf(notThere));
    const erased = await sendOn(other, known);
    expect(erased.status).toBe(202);
    expect((await sendOn(one, { path, method: 'DELETE' })).status).toBe(404);
    expect(await sendOn(one, known)).toEqual(replayOf(erased));
  });

  test.each([
    ['an array', 'application/json', (entries: object[]) => JSON.stringify(entries)],
    ['lines', 'application/x-ndjson', (entries: object[]) => entries.map((entry) => JSON.stringify(entry)).join('\n')],
  ])('a retried batch is answered as a whole: %s', async (_what, type, toBody) => {
    const entries = Array.from({ length: 500 }, (_entry, i) => (i % 5 ? JSON.parse(fresh().body) : { i }));
    const batch = { key: fresh().key, path: '/entries', body: toBody(entries), headers: { 'content-type': type } };
    const before = await countEffects();
    const first = await untilWhole(batch);
    expect(JSON.parse(first.body)).toMatchObject({ statusCode: 207, accepted: 400, rejected: 100 });
    expect(await sendOn(other, batch)).toEqual(replayOf(first));
    expect(await countEffects()).toBeGreaterThanOrEqual(before + 400);
    expect(await sendOn(one, { ...batch, body: `${batch.body}\n` })).toEqual(REUSED);
  });

  test('a batch of too many lines is a 413 again, and nothing of it is accepted or stored', async () => {
    const body = Array.from({ length: 1_001 }, () => fresh().body).join('\n');
    const batch = { ...fresh(), path: '/entries', body, headers: { 'content-type': 'application/x-ndjson' } };
    const before = await countEffects();
    const first = await sendOn(one, batch);
    expect([first.status, first.replayed]).toEqual([413, false]);
    expect(await sendOn(other, batch)).toEqual(first);
    expect(await countEffects()).toBe(before);
    expect((await sendOn(one, { ...batch, body: fresh().body })).status).toBe(207);
  });

  async function untilWhole(batch: Sent): Promise<Answer> {
    const answer = await sendOn(one, batch);
    return answer.retryAfter === null ? answer : untilWhole(batch);
  }

  test('a key that belongs to another method, path or body is a 422 without an effect', async () => {
    const sent = await create(one);
    const before = await countEffects();
    const { key } = sent;
    const erasure = { key, method: 'DELETE', path: `/entry/${JSON.parse(sent.body).customerId}` };
    const others: Sent[] = [
      { ...sent, body: fresh().body },
      { ...sent, body: `${sent.body} ` },
      { ...sent, body: '' },
      { ...sent, path: '/entries' },
      { ...sent, path: '/entry?a' },
      erasure,
    ];
    for (const another of others) expect(await sendOn(other, another)).toEqual(REUSED);
    expect(await countEffects()).toBe(before);
    expect(await sendOn(other, sent)).toEqual(replayOf(CREATED));
  });

  test('the same body as NDJSON and as JSON are two different requests', async () => {
    const lines = { 'content-type': 'application/x-ndjson' };
    const sent = fresh();
    const asLines = { ...sent, path: '/entries', headers: lines };
    const first = await sendOn(one, asLines);
    expect(first.status).toBe(207);
    expect(await sendOn(other, { ...asLines, headers: { 'content-type': 'application/json' } })).toEqual(REUSED);
    expect(await sendOn(other, { ...asLines, headers: { 'content-type': 'Application/NDJSON' } })).toEqual(
      replayOf(first),
    );
    const { key, body } = fresh();
    const asJson = { key, path: '/entries', body: `[${body}]` };
    const second = await sendOn(one, asJson);
    expect(await sendOn(other, { ...asJson, headers: lines })).toEqual(REUSED);
    expect(await sendOn(other, { ...asJson, headers: { 'content-type': 'text/plain' } })).toEqual(replayOf(second));
  });

  test.each([
    ['lines', 'application/x-ndjson', 'application/json', (entry: string) => `${entry}\n${entry}`],
    ['lines after blank lines', 'application/x-ndjson', 'application/json', (entry: string) => `\r\n \n${entry}`],
    ['an array', 'application/json', 'application/x-ndjson', (entry: string) => ` [\n${entry}\n]`],
  ])('a response that the previous release stored for %s is replayed', async (_what, type, otherType, toBody) => {
    const { key, body: entry } = fresh();
    const body = toBody(entry);
    const results = '[{"statusCode":202,"message":"OK - Update accepted"}]';
    const multiStatus = '"statusCode":207,"message":"OK - Multi-Status"';
    const answer = { status: 207, body: `{${multiStatus},"accepted":1,"rejected":0,"results":${results}}` };
    await keepAsBefore({ key, body, answer });
    const sent = { key, path: '/entries', body, headers: { 'content-type': type } };
    expect(await sendOn(one, sent)).toEqual({ ...answer, replayed: true, retryAfter: null });
    expect(await sendOn(one, { ...sent, headers: { 'content-type': otherType } })).toEqual(REUSED);
  });

  /** Stores a response as the previous release: with the same fingerprint for NDJSON and JSON. */
  async function keepAsBefore({
    key,
    body,
    answer,
  }: {
    key: string;
    body: string;
    answer: StoredResponse;
  }): Promise<void> {
    const fingerprint = hash('sha256', `${projectId}:${key}\nPOST /entries\n${body}`, 'base64url');
    const kept = { id: hash('sha256', `${projectId}:${key}`, 'base64url'), fingerprint, token: 'before' };
    await queue.idempotency.begin(0, projectId, [kept], HOUR_MS);
    await queue.idempotency.end(0, projectId, [{ ...kept, answer }], HOUR_MS);
  }

  test('a project at its limit of stored responses gets 429 for new keys; all other requests go on', async () => {
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const { projectId, apiKey } = await store.projects.create('full');
    await store.close();
    const before = { ...fresh(), apiKey };
    const first = await sendOn(one, before);
    await fillShare(backend, projectId);
    const requests = () => {
      const { key, body } = fresh();
      return [
        { apiKey, key, body },
        { apiKey, key, path: '/entries', body: `[${body}]` },
        { apiKey, key, path: '/entry/1', method: 'DELETE' },
      ];
    };
    const effects = await countEffects();
    for (const sent of requests()) {
      expect(await sendOn(other, sent)).toEqual({
        ...{ status: 429, replayed: false, retryAfter: '60' },
        body: '{"statusCode":429,"error":"Too Many Requests","message":"request was not accepted, too many idempotency keys are remembered, send it without one"}',
      });
    }
    expect(await countEffects()).toBe(effects);
    expect(await other.readMetric('opm_shed_total{reason="idempotency-keys"}')).toBe(3);
    expect(await sendOn(other, before)).toEqual(replayOf(first));
    for (const { key: _, ...unkeyed } of requests()) {
      expect([201, 202, 207, 404]).toContain((await sendOn(one, unkeyed)).status);
    }
    for (const { apiKey: _, ...ofOther } of requests()) expect((await sendOn(one, ofOther)).status).not.toBe(429);

    await fillShare(backend, projectId, { hoursAgo: 1 });
    for (const sent of requests()) expect((await sendOn(one, sent)).status).not.toBe(429);
  });

  test('projects do not share keys', async () => {
    const sent = await create(one);
    const foreign = { ...sent, apiKey: otherProject };
    const first = await sendOn(one, foreign);
    expect([first.status < 300, first.replayed]).toEqual([true, false]);
    expect(await sendOn(other, foreign)).toEqual(replayOf(first));
    expect(await sendOn(one, { ...foreign, ...fresh(), key: sent.key })).toEqual(REUSED);
  });

  test.each([
    ['an empty one', ''],
    ['one of 256 characters', 'k'.repeat(256)],
    ['one with a space', 'a b'],
    ['one in an unclosed quote', '"a'],
  ])('%s is a 400 on each route without an effect', async (_what, key) => {
    const { body } = fresh();
    const before = await countEffects();
    for (const sent of [{ body }, { path: '/entries', body: `[${body}]` }, { path: '/entry/1', method: 'DELETE' }]) {
      const answer = await sendOn(one, { key, ...sent });
      expect([answer.status, JSON.parse(answer.body).message]).toEqual([
        400,
        'idempotency key must have 1 to 255 visible ASCII characters',
      ]);
    }
    expect(await countEffects()).toBe(before);
    expect((await sendOn(one, { key: 'k'.repeat(255), body: fresh().body })).status).not.toBe(400);
  });

  test('two keys are a 400, even if they are equal', async () => {
    const headers = ['host', 'test', 'x-api-key', otherProject, 'idempotency-key', 'a', 'idempotency-key', 'a'];
    const outgoing = request(`${one.url}/entry`, { method: 'POST', headers: headers as never });
    outgoing.end(fresh().body);
    const [response] = await once(outgoing, 'response');
    const { message } = JSON.parse((await response.toArray()).join(''));
    expect([response.statusCode, message]).toEqual([400, 'idempotency key must be given once']);
  });

  test('a request that is refused before its body is read stores no response', async () => {
    const sent = fresh();
    const form = { ...sent, headers: { 'content-type': 'application/x-www-form-urlencoded' } };
    expect((await sendOn(one, { ...sent, apiKey: 'opm_wrong' })).status).toBe(401);
    expect((await sendOn(one, form)).status).toBe(415);
    expect((await sendOn(one, { ...sent, body: 'x'.repeat(17_000) })).status).toBe(413);
    expect((await sendOn(one, { ...sent, body: ' '.repeat(2 ** 20 + 1), path: '/entries' })).status).toBe(413);
    const first = await sendOn(one, sent);
    expect([first.status < 300, first.replayed]).toEqual([true, false]);
  });

  test('a request is accepted once and answered the same, however its retries spread over two ingresses', async () => {
    const sends = fc.array(fc.tuple(fc.nat(2), fc.boolean()), { minLength: 2, maxLength: 30 });
    const property = fc.asyncProperty(sends, async (drawn) => {
      const requests = [fresh(), fresh(), fresh()] as const;
      const before = await countEffects();
      undecided = 0;
      const answers: Answer[][] = requests.map(() => []);
      const sendUntilAnswered = async (n: number, isOne: boolean): Promise<void> => {
        const answer = await sendOn(isOne ? one : other, requests[n] as Sent);
        if (answer.status === 409) {
          expect(answer).toEqual(IN_USE);
          return sendUntilAnswered(n, !isOne);
        }
        answers[n]?.push(answer);
      };
      await Promise.all(drawn.map(([n, isOne]) => sendUntilAnswered(n, isOne)));
      const told = answers.filter(({ length }) => length > 0);
      for (const same of told) {
        const [first, ...others] = same.filter(({ replayed }) => !replayed);
        expect(others).toEqual([]);
        expect([201, 202]).toContain(first?.status);
        for (const answer of same) if (answer !== first) expect(answer).toEqual(replayOf(first as Answer));
      }
      const effects = (await countEffects()) - before;
      expect(effects).toBeGreaterThanOrEqual(told.length);
      expect(effects).toBeLessThanOrEqual(told.length + undecided);
    });
    await fc.assert(property, { numRuns: 30 });
  });

  test('a response is stored for 24 hours, without the key or any partner data', async () => {
    await expireKeys(backend);
    const entry = '{"customerId":"secret-id","customerEmail":"secret@example.com","secret-name":"secret"}';
    const lines = { path: '/entries', headers: { 'content-type': 'application/x-ndjson' } };
    for (const sent of [
      { key: 'secret-key', body: entry },
      { ...lines, key: 'secret-2', body: `${entry}\n{"secret":}\n"secret"` },
      { key: 'secret-3', path: '/entry/secret-unknown', method: 'DELETE' },
    ]) {
      await sendOn(one, sent);
      expect((await sendOn(one, sent)).replayed).toBe(true);
    }
    const kept = await readKeptKeys();
    expect(kept).toHaveLength(3);
    for (const { text, leftMs } of kept) {
      expect(text).not.toMatch(/secret/);
      expect(leftMs).toBeGreaterThan(23 * HOUR_MS);
      expect(leftMs).toBeLessThanOrEqual(DAY_MS);
    }
  });

  test('an expired key can be used for a new request', async () => {
    const sent = await create(one);
    await expireKeys(backend);
    const first = await sendOn(other, { ...sent, body: fresh().body });
    expect([first.status < 300, first.replayed]).toEqual([true, false]);
    expect(await sendOn(other, sent)).toEqual(REUSED);
  });

  /** Starts a batch that is in flight long enough to interrupt it: each entry is queued on its own. */
  async function startLongBatch(env: NodeJS.ProcessEnv = {}) {
    const slow = await startApp('ingress', { ...backend.env, CHUNK_MAX_ENTRIES: '1', ...env });
    await expireKeys(backend);
    const entries = Array.from({ length: 1_000 }, () => fresh().body);
    const batch = { key: fresh().key, path: '/entries', body: `[${entries.join()}]` };
    const answered = send(slow, batch).catch(() => undefined);
    const isUnderWay = async () => (await readKeys(backend)).some(({ leftMs }) => leftMs > 0);
    await waitFor(isUnderWay, { description: 'the batch to be in flight' });
    return { slow, batch, answered };
  }

  test('if an ingress is killed, the next request gets the key once its lock has expired', async () => {
    const { slow, batch, answered } = await startLongBatch();
    for (const { leftMs } of await readKeys(backend)) expect(leftMs).toBeLessThanOrEqual(10 * ANSWER_TIMEOUT_MS);
    await slow.stop('SIGKILL');
    expect(await answered).toBeUndefined();
    expect(await sendOn(one, batch)).toEqual(IN_USE);
    await expireKeys(backend);
    const first = await untilWhole(batch);
    expect(JSON.parse(first.body)).toMatchObject({ accepted: 1_000, rejected: 0 });
    expect(await sendOn(other, batch)).toEqual(replayOf(first));
  });

  test('an ingress that hangs until its lock has expired does no more, and does not change the stored response', async () => {
    const { slow, batch, answered } = await startLongBatch({ ANSWER_TIMEOUT_MS: '1000' }); // a lock lasts ten times as long
    process.kill(slow.pid, 'SIGSTOP');
    // Retries until every entry is accepted; a batch with a 503 stores no response.
    const isTaken = async () => {
      const answer = await sendOn(one, batch);
      return answer.retryAfter === null && answer;
    };
    const first = await waitFor(isTaken, { description: 'the lock to expire' });
    const before = await countEffects();
    process.kill(slow.pid, 'SIGCONT');
    const late = await answered;
    // One entry may have been in flight when the ingress stopped.
    expect(await countEffects()).toBeLessThanOrEqual(before + 1);
    expect(late?.body).toContain('not accepted');
    expect(await sendOn(other, batch)).toEqual(replayOf(first));
    await slow.stop();
  });
});

describe.each(BACKENDS)('while the queue on %s is down:', (_, createPlace) => {
  let backend: Backend;
  let proxy: TcpProxy;
  let ingress: TestApp;
  let send: ReturnType<typeof createSend>;

  beforeAll(async () => {
    backend = await createPlace();
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    send = createSend((await store.projects.create('acme').finally(store.close)).apiKey);
    proxy = await startProxy(backend.redisUrl ?? backend.databaseUrl);
    const name = backend.redisUrl === undefined ? 'DATABASE_URL' : 'REDIS_URL';
    ingress = await startApp('ingress', { ...backend.env, [name]: proxy.url });
  });
  afterAll(async () => {
    await ingress?.stop();
    await proxy?.close();
    await backend?.drop();
  });

  test('a request with a key is a 503 and is not accepted; its retry counts as the first attempt', async () => {
    const entry = (id: string) => ({ key: id, body: `{"customerId":"${id}","customerPhone":"+1"}` });
    const untilAccepted = (id: string) =>
      waitFor(() => send(ingress, entry(id)).then((answer) => answer.status < 300 && answer), {
        description: 'the entry to be accepted',
      });
    const before = await untilAccepted('before');
    await proxy.cut();
    const away = await send(ingress, entry('away'));
    expect([away.status, away.retryAfter, JSON.parse(away.body).message]).toEqual([
      503,
      '1',
      'entry was not accepted, try again',
    ]);
    await proxy.restore();
    const first = await untilAccepted('away');
    expect([before.replayed, first.replayed]).toEqual([false, false]);
    expect(await untilAccepted('away')).toEqual(replayOf(first));
    expect(await untilAccepted('before')).toEqual(replayOf(before));
  });
});
