import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, type EntryQueue } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, createBackend, startApp, startProxy, type TestApp, waitFor } from '@opm/testkit';

import { readRowVersions, toReceiptOf } from './receipts.js';

type Answer = [status: number, body: string];

const CREATED: Answer = [201, '{"statusCode":201,"message":"OK - Created"}'];
const UPDATED: Answer = [202, '{"statusCode":202,"message":"OK - Update accepted"}'];
const ERASED: Answer = [202, '{"statusCode":202,"message":"OK - Erasure accepted"}'];
const UNKNOWN: Answer = [404, '{"statusCode":404,"error":"Not Found","message":"customer does not exist"}'];

const badRequest = (message: string) => [400, JSON.stringify({ statusCode: 400, error: 'Bad Request', message })];

async function send(url: string, init: RequestInit): Promise<Answer> {
  const response = await fetch(url, init);
  return [response.status, await response.text()];
}
const createClient = (ingress: TestApp, apiKey: string) => ({
  erase: (path: string | number, headers: Record<string, string> = { 'x-api-key': apiKey }) =>
    send(`${ingress.url}/entry/${path}`, { method: 'DELETE', headers }),
  post: (customerId: string | number) =>
    send(`${ingress.url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body: JSON.stringify({ customerId, customerEmail: 'jane@example.com' }),
    }),
});

describe.each(BACKENDS)('erasure, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let queue: EntryQueue;
  let ingresses: TestApp[];
  let worker: TestApp;
  let apiKey: string;
  let projectId: number;
  let erase: ReturnType<typeof createClient>['erase'];
  let post: ReturnType<typeof createClient>['post'];

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    const signal = new AbortController().signal;
    queue = await createEntryQueue({ ...backend, shards: 1, signal, onError: () => {} });
    ingresses = await Promise.all([startApp('ingress', backend.env), startApp('ingress', backend.env)]);
    worker = await startApp('worker', backend.env);
    ({ erase, post } = createClient(ingresses[0] as TestApp, apiKey));
  });
  afterAll(async () => {
    await Promise.all([...ingresses, worker].map((app) => app.stop()));
    await queue.close();
    await store.close();
    await backend.drop();
  });

  const find = (customerId: string) => store.customers.find(projectId, customerId);
  const isStored = (customerId: string) => waitFor(() => find(customerId), { description: 'the row' });
  const isGone = (customerId: string) =>
    waitFor(async () => !(await find(customerId)), { description: 'the row to be gone' });
  let nextId = 7519;
  /** Sends one more entry and waits for its row: by then everything accepted before it is persisted. */
  let marks = 0;
  const everythingIsPersisted = async () => {
    const mark = `mark ${marks++}`;
    await post(mark);
    await isStored(mark);
  };

  test('a stored customer is erased once, and the next entry creates it again', async () => {
    const id = nextId++;
    await post(id);
    await isStored(String(id));
    expect(await erase(id)).toEqual(ERASED);
    expect(await erase(String(id))).toEqual(UNKNOWN);
    await isGone(String(id));
    expect(await erase(id)).toEqual(UNKNOWN);
    await everythingIsPersisted(); // and the claims of the erasures are settled
    expect(await post(String(id))).toEqual(CREATED);
    await isStored(String(id));
    expect(await post(id)).toEqual(UPDATED);
  });

  test('the receipt of an erasure has the version that its row keeps, and a 404 has none', async () => {
    const customerId = String(nextId++);
    await post(customerId);
    const eraseOnce = () =>
      fetch(`${ingresses[0]?.url}/entry/${customerId}`, { method: 'DELETE', headers: { 'x-api-key': apiKey } });
    const { version, fields } = toReceiptOf(customerId, (await eraseOnce()).headers.get('receipt'));
    expect(fields).toEqual([]);
    const isErased = async () => (await readRowVersions(backend, { projectId, customerId })).erased === version;
    await waitFor(isErased, { description: 'the erasure to be stored' });
    const second = await eraseOnce();
    expect([second.status, second.headers.get('receipt')]).toEqual([404, null]);
  });

  test('erasing an unknown customer is a 404, and the first entry after it a 201', async () => {
    const id = String(nextId++);
    expect(await erase(id)).toEqual(UNKNOWN);
    expect(await post(id)).toEqual(CREATED);
    await isStored(id);
    const other = await store.projects.create(`other than ${id}`);
    expect(await erase(id, { 'x-api-key': other.apiKey })).toEqual(UNKNOWN);
    await everythingIsPersisted();
    expect(await find(id)).toBeDefined();
  });

  test('an erasure removes dead letters, even without a row; older entries rejected later do not become one', async () => {
    const version = Date.now() * 1_000;
    const payload = { customerId: 'refused', version, fields: { email: 'jane@example.com' } };
    const letter = { projectId, entry: payload, payload, error: 'refused for the test', sqlState: '22021' };
    await store.deadLetters.add([letter]);
    expect(await erase('refused')).toEqual(UNKNOWN);
    await waitFor(async () => (await store.deadLetters.count({})).length === 0, { description: 'no dead letters' });
    await store.deadLetters.add([letter]);
    expect(await store.deadLetters.count({})).toEqual([]);
  });

  test('a replay in flight does not bring an erased customer back', async () => {
    const entry = { customerId: 'replayed', version: Date.now() * 1_000, fields: { email: 'jane@example.com' } };
    expect(await erase('replayed')).toEqual(UNKNOWN);
    await everythingIsPersisted();
    await queue.requeue(0, { entries: [{ projectId, ...entry }] });
    await everythingIsPersisted();
    await waitFor(async () => (await queue.load()).entries === 0, { description: 'an empty queue' });
    expect(await find('replayed')).toBeUndefined();
  });

  test.each<[string, string | number, string]>([
    ['a slash', 'a%2Fb', 'a/b'],
    ['a space and an emoji', '%20%F0%9F%98%80', ' 😀'],
    ['a percent sign', '100%25', '100%'],
    ['a plus, which stands for itself', 'a+b', 'a+b'],
    ['255 characters', '%F0%9F%98%80'.repeat(255), '😀'.repeat(255)],
  ])('the path names any customer: %s', async (_, path, customerId) => {
    expect(await post(customerId)).toEqual(CREATED);
    expect(await erase(path)).toEqual(ERASED);
  });

  test.each([
    ['%', '%', 'path must be percent-encoded UTF-8'],
    ['%zz', '%zz', 'path must be percent-encoded UTF-8'],
    ['a byte that is not UTF-8', '%ff', 'path must be percent-encoded UTF-8'],
    ['a surrogate', '%ED%A0%80', 'path must be percent-encoded UTF-8'],
    ['U+0000', 'a%00b', 'path/customerId must not contain U+0000 or unpaired surrogates'],
    ['256 characters', 'x'.repeat(256), 'path/customerId must NOT have more than 255 characters'],
  ])('a path that is not a valid customer id is a 400 with its own message: %s', async (_, path, message) => {
    expect(await erase(path)).toEqual(badRequest(message));
  });

  test('the key is checked before the path', async () => {
    for (const path of ['7519', '%', 'x'.repeat(256)]) {
      expect((await erase(path, { 'x-api-key': 'wrong' }))[0]).toBe(401);
      expect((await erase(path, {}))[0]).toBe(401);
    }
  });

  test('a body is ignored, and the connection stays open', async () => {
    await post('with a body');
    const erasing = send(`${ingresses[0]?.url}/entry/with%20a%20body`, {
      method: 'DELETE',
      headers: { 'x-api-key': apiKey },
      body: '{"x":'.repeat(10_000),
    });
    expect(await erasing).toEqual(ERASED);
    expect(await erase('with%20a%20body')).toEqual(UNKNOWN);
  });

  test('answers are counted by route, and a wrong method gets the allowed ones', async () => {
    const metric = 'opm_answers_total{route="/entry/:customerId",status="404"}';
    const before = await ingresses[0]?.readMetric(metric);
    await erase('nobody at all');
    expect(await ingresses[0]?.readMetric(metric)).toBe(Number(before) + 1);
    const response = await fetch(`${ingresses[0]?.url}/entry/7519`, { method: 'PUT' });
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, HEAD, DELETE']);
  });
});

// Runs without a worker, so that claims decide every answer after the first and the speed of PostgreSQL does not
// matter.
test.each(BACKENDS)(
  'the answers of concurrent entries and erasures are consistent with each other and with the stored row: %s',
  async (_, createPlace) => {
    const backend = await createPlace();
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const { apiKey, projectId } = await store.projects.create('acme');
    const ingresses = await Promise.all([startApp('ingress', backend.env), startApp('ingress', backend.env)]);
    const clients = ingresses.map((ingress) => createClient(ingress, apiKey));
    const [{ post, erase }] = clients as [ReturnType<typeof createClient>];

    async function race(id: string): Promise<Answer[]> {
      const before = [await post(id), await erase(id)];
      const calls = Array.from({ length: 24 }, (_it, i) => {
        const client = clients[i % 2] as ReturnType<typeof createClient>;
        return i % 3 === 0 ? client.erase(id) : client.post(id);
      });
      return [...before, ...(await Promise.all(calls))];
    }
    const lives = new Map<string, boolean>();
    for (let round = 0; lives.size < 10 && round < 100; round++) {
      const id = `raced ${round}`;
      const answers = await race(id);
      // On a busy machine, the outcome of a 503 and the meaning of a 202 for a first entry are unknown.
      if (answers.some(([status]) => status === 503) || answers[0]?.[0] !== 201) continue;
      // Each 201 creates the customer, and each 202 of an erasure removes it.
      const count = (wanted: Answer) => answers.filter((answer) => answer.join() === wanted.join()).length;
      const there = count(CREATED) - count(ERASED);
      expect([0, 1]).toContain(there);
      lives.set(id, there === 1);
    }
    expect(lives.size).toBe(10);
    for (const [id, isThere] of [...lives].slice(0, 5)) {
      expect(await erase(id)).toEqual(isThere ? ERASED : UNKNOWN);
      lives.set(id, false);
    }

    const worker = await startApp('worker', backend.env);
    await post('last');
    await waitFor(() => store.customers.find(projectId, 'last'), { description: 'the last row' });
    for (const [id, isThere] of lives) {
      const fits = async () => ((await store.customers.find(projectId, id)) !== undefined) === isThere;
      await waitFor(fits, { description: `${id} to be stored or erased` });
    }
    await Promise.all([...ingresses, worker].map((app) => app.stop()));
    await store.close();
    await backend.drop();
  },
);

describe('while a store is down:', () => {
  let backend: Backend;
  let postgres: Awaited<ReturnType<typeof startProxy>>;
  let redis: typeof postgres;
  let ingress: TestApp;
  let client: ReturnType<typeof createClient>;

  beforeAll(async () => {
    redis = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
    backend = await createBackend(redis.url);
    postgres = await startProxy(backend.databaseUrl);
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const { apiKey } = await store.projects.create('acme').finally(store.close);
    ingress = await startApp('ingress', { ...backend.env, DATABASE_URL: postgres.url });
    client = createClient(ingress, apiKey);
    await client.post('known');
  });
  afterAll(async () => {
    await ingress.stop();
    await Promise.all([postgres.close(), redis.close()]);
    await backend.drop();
  });

  test('without PostgreSQL an erasure is accepted, because the customer may exist', async () => {
    await postgres.cut();
    expect(await client.erase('perhaps')).toEqual(ERASED);
    expect(await client.erase('perhaps')).toEqual(UNKNOWN);
    await postgres.restore();
  });

  test('without the queue an erasure is a 503, and it is accepted afterwards', async () => {
    await redis.cut();
    expect((await client.erase('known'))[0]).toBe(503);
    await redis.restore();
    const erased = async () => (await client.erase('known'))[0] === 202;
    await waitFor(erased, { description: 'the erasure to be accepted' });
    expect(await client.post('known')).toEqual(CREATED);
  });
});
