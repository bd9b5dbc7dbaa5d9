import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryWorker, Postponed } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, createBackend, startApp, startProxy, type TestApp, waitFor } from '@opm/testkit';

type Answer = [status: number, body: unknown];

const notFound = (message: string): Answer => [404, { statusCode: 404, error: 'Not Found', message }];
const UNKNOWN = notFound('customer does not exist');
const ERASED = notFound('customer is being erased');

const createClient = (ingress: TestApp, apiKey: string) => {
  const call = (path: string, init: RequestInit = {}) =>
    fetch(ingress.url + path, { ...init, headers: { 'x-api-key': apiKey } });
  return {
    call,
    async get(path: string | number): Promise<Answer> {
      const response = await call(`/entry/${path}`);
      return [response.status, await response.json()];
    },
    async post(entry: object): Promise<number> {
      const response = await call('/entry', { method: 'POST', body: JSON.stringify(entry) });
      await response.text();
      return response.status;
    },
  };
};

describe.each(BACKENDS)('reading a customer back, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let ingresses: TestApp[];
  let worker: TestApp;
  let client: ReturnType<typeof createClient>;
  let other: ReturnType<typeof createClient>;

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const { apiKey } = await store.projects.create('acme');
    const env = { ...backend.env, QUEUE_SHARDS: '2' };
    ingresses = await Promise.all([startApp('ingress', env), startApp('ingress', env)]);
    worker = await startApp('worker', env);
    client = createClient(ingresses[0] as TestApp, apiKey);
    other = createClient(ingresses[1] as TestApp, apiKey);
  });
  afterAll(async () => {
    await Promise.all([...ingresses, worker].map((app) => app?.stop()));
    await store.close();
    await backend.drop();
  });

  const settled = async (path: string | number) => {
    const isSettled = async () => {
      const answer = await client.get(path);
      return (answer[1] as { pending?: boolean }).pending === false && answer;
    };
    return waitFor(isSettled, { description: 'the customer to be stored' });
  };
  const isoTime = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

  test('every acknowledged entry can be read at once, from any ingress', async () => {
    await worker.stop();
    expect(await client.post({ customerId: 60, customerEmail: 'jane@example.com' })).toBe(201);
    for (const { get } of [client, other]) {
      expect(await get(60)).toMatchObject([
        200,
        { customer: { customerId: '60', customerEmail: null }, pending: true },
      ]);
    }
    worker = await startApp('worker', { ...backend.env, QUEUE_SHARDS: '2' });

    for (let i = 0; i < 60; i++) {
      expect(await client.post({ customerId: i, customerEmail: 'jane@example.com' })).toBe(201);
      // Reads several times, because the answer comes first from the claim and later from the row.
      for (const { get } of [client, other, client, other, client]) {
        const [status, body] = (await get(i)) as [number, { customer: { customerEmail: string }; pending: boolean }];
        expect(status).toBe(200);
        if (!body.pending) expect(body.customer.customerEmail).toBe('jane@example.com');
      }
    }
  });

  test('stored fields are returned as they were sent, missing ones as null', async () => {
    const entry = { customerId: 7519, customerEmail: 'jane@example.com', customerFirstName: 'Jäne 😀' };
    await client.post(entry);
    const [status, body] = await settled(7519);
    expect([status, Object.keys((body as { customer: object }).customer)]).toEqual([
      200,
      [
        'customerId',
        'customerEmail',
        'customerPhone',
        'customerFirstName',
        'customerLastName',
        'customerIP',
        'createdAt',
        'updatedAt',
      ],
    ]);
    const customer = { ...entry, customerId: '7519', customerPhone: null, customerLastName: null, customerIP: null };
    expect(body).toEqual({
      statusCode: 200,
      customer: { ...customer, createdAt: isoTime, updatedAt: isoTime },
      pending: false,
    });
    expect(await other.get('%37519')).toEqual([200, body]);
    const head = await client.call('/entry/7519', { method: 'HEAD' });
    expect([head.status, head.headers.get('cache-control'), await head.text()]).toEqual([200, 'no-store', '']);
  });

  test('a customer without a row has null fields and is marked as pending', async () => {
    await client.post({ customerId: 'a/b', customerPhone: '+1' });
    const [, before] = await settled('a%2Fb');
    await worker.stop();
    expect(await client.post({ customerId: 'a/b', customerPhone: '+2' })).toBe(202);
    expect(await client.get('a%2Fb')).toEqual([200, { ...(before as object), pending: true }]);
    expect(await client.post({ customerId: 'new', customerPhone: '+2' })).toBe(201);
    const nothing = { customerEmail: null, customerPhone: null, customerFirstName: null, customerLastName: null };
    const customer = { customerId: 'new', ...nothing, customerIP: null, createdAt: null, updatedAt: null };
    expect(await client.get('new')).toEqual([200, { statusCode: 200, customer, pending: true }]);

    for (const path of ['a%2Fb', 'new']) {
      expect((await client.call(`/entry/${path}`, { method: 'DELETE' })).status).toBe(202);
      expect(await client.get(path)).toEqual(ERASED);
    }
    worker = await startApp('worker', { ...backend.env, QUEUE_SHARDS: '2' });
    for (const path of ['a%2Fb', 'new']) {
      const isErased = async () => (await client.get(path))[1];
      await waitFor(async () => JSON.stringify(await isErased()) === JSON.stringify(UNKNOWN[1]), {
        description: 'the erasure to be persisted',
      });
    }
  });

  test('a customer is pending while its erasure is, even if newer entries are stored', async () => {
    const path = 'erased late';
    await client.post({ customerId: path, customerPhone: '+1', customerEmail: 'old@example.com' });
    await settled(path);
    await worker.stop();

    // This worker takes the erasure and stalls.
    const stall = new AbortController();
    let isTaken = false;
    const signal = new AbortController().signal;
    const stalled = await createEntryWorker({
      ...{ ...backend, shards: 2, concurrency: 1, lockMs: 60_000, signal },
      async process({ entries }) {
        if (entries.some(({ erase }) => erase)) {
          isTaken = true;
          await once(stall.signal, 'abort');
        }
        throw new Postponed('for the other worker');
      },
      ...{ deadLetterInvalid: async () => {}, onPostponed: () => {}, onRetry: () => {}, onError: () => {} },
    });
    stalled.start();
    expect((await client.call(`/entry/${path}`, { method: 'DELETE' })).status).toBe(202);
    await waitFor(() => isTaken, { description: 'the erasure to be taken' });
    stalled.pause();

    worker = await startApp('worker', { ...backend.env, QUEUE_SHARDS: '2' });
    const projectId = 1;
    const isStored = async () => (await store.customers.find(projectId, path))?.phone === '+2';
    await client.post({ customerId: path, customerPhone: '+2' });
    await waitFor(isStored, { description: 'the newer entry' });
    await client.post({ customerId: 'after it', customerPhone: '+3' });
    await settled('after it');
    expect(await client.get(path)).toEqual([200, expect.objectContaining({ pending: true })]);

    stall.abort();
    const customer = { customerPhone: '+2', customerEmail: null };
    expect(await settled(path)).toEqual([
      200,
      expect.objectContaining({ customer: expect.objectContaining(customer) }),
    ]);
    await stalled.close();
  });

  test('an unknown customer, or one of another project, is a 404', async () => {
    expect(await client.get('nobody')).toEqual(UNKNOWN);
    const { apiKey } = await store.projects.create('another');
    expect(await createClient(ingresses[0] as TestApp, apiKey).get(7519)).toEqual(UNKNOWN);
  });

  test('an invalid customer id is a 400, an unknown key a 401', async () => {
    expect((await client.get('%'))[0]).toBe(400);
    expect((await client.get('x'.repeat(256)))[0]).toBe(400);
    expect((await createClient(ingresses[0] as TestApp, 'wrong').get(7519))[0]).toBe(401);
  });

  test('concurrent reads each get their own customer', async () => {
    const get = (i: number) => (i % 2 ? client : other).get(i < 60 ? i : `none ${i}`);
    const answers = await Promise.all(
      Array.from({ length: 300 }, async (_, i) => {
        const answer = await get(i);
        return answer[0] === 503 ? get(i) : answer; // the machine may be busy
      }),
    );
    for (const [i, [status, body]] of answers.entries()) {
      expect(status).toBe(i < 60 ? 200 : 404);
      if (i < 60) expect(body).toMatchObject({ customer: { customerId: String(i) } });
    }
  });
});

test('while PostgreSQL or the queue is down, reading a customer is a 503; afterwards it is a 200 again', async () => {
  const redis = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
  const backend = await createBackend(redis.url);
  const postgres = await startProxy(backend.databaseUrl);
  const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  const { apiKey } = await store.projects.create('acme').finally(store.close);
  const ingress = await startApp('ingress', { ...backend.env, DATABASE_URL: postgres.url });
  const { call, get, post } = createClient(ingress, apiKey);
  expect(await post({ customerId: 1, customerPhone: '+1' })).toBe(201);

  for (const place of [postgres, redis]) {
    await place.cut();
    for (let i = 0; i < 3; i++) {
      const response = await call('/entry/1');
      expect([response.status, response.headers.get('retry-after'), await response.json()]).toEqual([
        503,
        '1',
        { statusCode: 503, error: 'Service Unavailable', message: 'customer could not be read, try again' },
      ]);
    }
    await place.restore();
    await waitFor(async () => (await get(1))[0] === 200, { description: 'the customer to be read' });
  }
  await ingress.stop();
  await Promise.all([postgres.close(), redis.close()]);
  await backend.drop();
});
