import { randomInt, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, startProcess, type TestApp, waitFor } from '@opm/testkit';
import { readRowVersions, toReceiptOf, toRowVersions } from '../apps/ingress/test/receipts.js';

describe.each(BACKENDS)('two ingresses and two workers, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let apiKey: string;
  let projectId: number;
  let ingresses: TestApp[];
  let workers: TestApp[];

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    ingresses = await Promise.all([startApp('ingress', backend.env), startApp('ingress', backend.env)]);
    workers = await Promise.all([startApp('worker', backend.env), startApp('worker', backend.env)]);
  });
  afterAll(async () => {
    const exits = await Promise.all([...ingresses, ...workers].map((app) => app.stop()));
    expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
    await store.close();
    await backend.drop();
  });

  let turn = 0;
  const send = async (entry: object) => {
    const url = ingresses[turn++ % 2]?.url;
    const response = await fetch(`${url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body: JSON.stringify(entry),
    });
    await response.arrayBuffer();
    return response;
  };
  const post = async (entry: object): Promise<number> => (await send(entry)).status;
  const findStored = (ids: string[]) =>
    store.customers.findExisting(
      ids.map((customerId) => ({ projectId, customerId, version: Number.MAX_SAFE_INTEGER })),
    );
  const customer = (id: string) => store.customers.find(projectId, id);

  test('an entry becomes a row, and an update merges into it', async () => {
    const number = randomInt(2 ** 47);
    const customerId = String(number);
    expect(await post({ customerId: number, customerEmail: 'jane@example.com', customerFirstName: 'Jäne 😀' })).toBe(
      201,
    );
    expect(await post({ customerId, customerPhone: '+41 44 000', customerEmail: null, customerIP: '::1' })).toBe(202);
    // Two workers may persist the two entries in either order.
    const merged = async () => {
      const row = await customer(customerId);
      return row?.email && row.phone ? row : undefined;
    };
    const row = await waitFor(merged, { description: 'the merged row' });
    expect(row).toMatchObject({
      projectId,
      customerId,
      email: 'jane@example.com',
      phone: '+41 44 000',
      firstName: 'Jäne 😀',
      lastName: null,
      ip: '::1',
    });
    expect(row.createdAt.getTime()).toBeLessThanOrEqual(row.updatedAt.getTime());
    expect(await post({ customerId: number, customerPhone: '+1' })).toBe(202);
  });

  test('the receipt of each answer has the version and the fields that its entry gives the row, and they increase', async () => {
    const customerId = randomUUID();
    const entries = [
      { customerEmail: '1@example.com', customerFirstName: 'Jane', customerLastName: 'Doe', customerIP: '::1' },
      { customerPhone: '+1', customerFirstName: '', customerIP: null },
      { customerEmail: '2@example.com', customerLastName: 'Do' },
    ];
    const receipts: unknown[] = [];
    for (const entry of entries) receipts.push((await send({ customerId, ...entry })).headers.get('receipt'));
    expect(receipts.map((receipt) => toReceiptOf(customerId, receipt).fields)).toEqual([
      ['email', 'firstName', 'lastName', 'ip'],
      ['phone'],
      ['email', 'lastName'],
    ]);
    const versions = receipts.map((receipt) => toReceiptOf(customerId, receipt).version);
    expect(versions).toEqual([...new Set(versions)].sort((a, b) => a - b));
    const isStored = async () => {
      const row = await customer(customerId);
      return row?.email === '2@example.com' && row.phone && row.firstName;
    };
    await waitFor(isStored, { description: 'all three entries to be stored' });
    const row = await readRowVersions(backend, { projectId, customerId });
    expect(row).toEqual(toRowVersions(customerId, receipts));
  });

  test('of 200 simultaneous first posts of one customer exactly one is a 201', async () => {
    for (let round = 0; round < 3; round++) {
      const customerId = randomUUID();
      const entries = Array.from({ length: 200 }, (_, i) => ({ customerId, customerEmail: `${i}@example.com` }));
      const statuses = await Promise.all(entries.map(post));
      expect(statuses.sort()).toEqual([201, ...Array(199).fill(202)]);
    }
  });

  test('the last acknowledged entry of each customer wins, whichever ingress and worker took it', async () => {
    const run = randomUUID();
    const ids = Array.from({ length: 40 }, (_, i) => `ordered ${run} ${i}`);
    await Promise.all(
      ids.map(async (customerId) => {
        for (let n = 1; n <= 10; n++) {
          const status = await post({
            customerId,
            customerEmail: `${n}@example.com`,
            ...(n === 3 ? { customerLastName: 'Doe' } : {}),
          });
          expect(status).toBe(n === 1 ? 201 : 202);
        }
      }),
    );
    for (const id of ids) {
      const row = await waitFor(async () => (await customer(id))?.email === '10@example.com' && customer(id), {
        description: id,
      });
      expect(row.lastName).toBe('Doe');
    }
  });

  test('a worker that is killed loses nothing', async () => {
    const ids = Array.from({ length: 300 }, (_, i) => `killed ${i}`);
    const posts = Promise.all(ids.map((customerId) => post({ customerId, customerPhone: '+1' })));
    await workers[0]?.stop('SIGKILL');
    expect(new Set(await posts)).toEqual(new Set([201]));
    workers[0] = await startApp('worker', backend.env);
    // A job of the killed worker goes to another one when its lock expires.
    await waitFor(async () => (await findStored(ids)).size === ids.length, { description: 'all rows' });
  });

  test('a worker that is stopped finishes its jobs', async () => {
    const ids = Array.from({ length: 300 }, (_, i) => `drained ${i}`);
    const posts = Promise.all(ids.map((customerId) => post({ customerId, customerPhone: '+1' })));
    expect(await workers[1]?.stop()).toEqual({ code: 0, signal: null });
    expect(new Set(await posts)).toEqual(new Set([201]));
    workers[1] = await startApp('worker', backend.env);
    await waitFor(async () => (await findStored(ids)).size === ids.length, {
      description: 'all rows',
    });
  });

  test('an ingress that is stopped answers its open requests', async () => {
    const leaving = await startApp('ingress', backend.env);
    const ping = () => fetch(`${leaving.url}/ping`, { headers: { 'x-api-key': apiKey } }).then(({ status }) => status);
    const requests = Array.from({ length: 20 }, (_, i) => {
      const body = JSON.stringify({ customerId: `leaving ${i}`, customerPhone: '+1' });
      const headers = { 'x-api-key': apiKey, 'content-length': body.length };
      const sent = request(`${leaving.url}/entry`, { method: 'POST', headers });
      sent.write(body.slice(0, 5));
      return { sent, rest: body.slice(5), answer: once(sent, 'response') as Promise<[IncomingMessage]> };
    });
    expect(await ping()).toBe(200);
    const exit = leaving.stop();
    await waitFor(() => leaving.output().includes('"msg":"stopping"'), { description: 'the end to begin' });
    for (const { sent, rest } of requests) sent.end(rest);
    for (const { answer } of requests) {
      const [response] = await answer;
      response.resume();
      expect(response.statusCode).toBe(201);
    }
    expect(await exit).toEqual({ code: 0, signal: null });
    await expect(ping()).rejects.toThrow('fetch failed');
  });
});

test.each(['ingress', 'worker', 'console'])('%s prints every problem of its environment, and exits', async (name) => {
  const app = await startProcess({
    file: `apps/${name}/dist/main.js`,
    env: { DATABASE_URL: 'not-a-url', QUEUE_SHARDS: 'many', CONSOLE_PASSWORD: '' },
  });
  expect(await app.exited).toEqual({ code: 1, signal: null });
  expect(app.output()).toContain(`${name}: DATABASE_URL is not valid: URL of PostgreSQL`);
  expect(app.output()).toContain(`${name}: QUEUE_SHARDS is not valid: number of queues`);
  expect(app.output()).not.toMatch(/not-a-url|many/);
  if (name === 'console') expect(app.output()).toContain('console: CONSOLE_PASSWORD is missing');
});

test('a port in use is named with its variable', async () => {
  const server = createServer().listen(0);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const app = await startProcess({
    file: 'apps/worker/dist/main.js',
    env: { DATABASE_URL: 'postgresql://127.0.0.1:1/opm', INTERNAL_PORT: String(port) },
  });
  expect(await app.exited).toEqual({ code: 1, signal: null });
  expect(app.output()).toBe(
    `worker: port ${port} is taken by another program; choose another one with INTERNAL_PORT\n`,
  );
  server.close();
});

test.each([
  ['Redis', 'redis://127.0.0.1:1'],
  ['PostgreSQL', ''],
])('a process that waits for %s can be stopped', async (_, redisUrl) => {
  const app = await startProcess({
    file: 'apps/worker/dist/main.js',
    env: { DATABASE_URL: 'postgresql://127.0.0.1:1/opm', REDIS_URL: redisUrl, INTERNAL_PORT: '0' },
    readyOutput: /ECONNREFUSED/,
  });
  expect(await app.stop()).toEqual({ code: 0, signal: null });
});
