import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, query, runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';

let backend: Backend;
let store: Store;
let apps: TestApp[] = [];
let apiKey: string;
let projectId: number;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  ({ apiKey, projectId } = await store.projects.create('acme'));
  apps = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
});
afterAll(async () => {
  const exits = await Promise.all(apps.map((app) => app.stop()));
  await store?.close();
  await backend?.drop();
  expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
});

async function call(method: string, path: string, body?: object): Promise<number> {
  const init = { method, headers: { 'x-api-key': apiKey }, ...(body && { body: JSON.stringify(body) }) };
  const response = await fetch(`${apps[0]?.url}${path}`, init);
  await response.body?.cancel();
  return response.status;
}
const post = (customerId: string, rest: object) => call('POST', '/entry', { customerId, ...rest });

async function expectRow(customerId: string, expected: object): Promise<void> {
  const isThere = async () => {
    expect(await store.customers.find(projectId, customerId)).toMatchObject(expected);
    return true;
  };
  await waitFor(isThere, { description: `the row of ${customerId}` });
}

test('a table partitioned as in docs/scaling.md accepts entries and erasures as before, and keeps its rows', async () => {
  const ids = Array.from({ length: 40 }, (_, i) => `customer ${i}`);
  for (const id of ids) expect(await post(id, { customerEmail: 'old@example.com' })).toBe(201);
  for (const id of ids) await expectRow(id, { email: 'old@example.com' });

  const [, sql] = /```sql\n([^`]+)```/.exec(await readFile('docs/scaling.md', 'utf8')) ?? [];
  await query(backend.databaseUrl, sql as string);

  for (const id of ids) expect(await post(id, { customerPhone: '+49 30 1' })).toBe(202);
  for (const id of ids) await expectRow(id, { email: 'old@example.com', phone: '+49 30 1' });
  expect(await post('new', { customerEmail: 'new@example.com' })).toBe(201);
  await expectRow('new', { email: 'new@example.com' });
  expect(await call('DELETE', '/entry/new')).toBe(202);
  await waitFor(async () => (await call('GET', '/entry/new')) === 404, { description: 'the erasure' });
  const filled = `SELECT count(DISTINCT tableoid)::int AS filled FROM customers`;
  expect((await query(backend.databaseUrl, filled))[0]?.filled).toBeGreaterThan(10);
  expect((await runOpm(['migrate'], backend.env)).code).toBe(0);
});
