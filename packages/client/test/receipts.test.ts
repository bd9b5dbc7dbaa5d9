import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { OpmClient, type RefusedEntry } from '@opm/client';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, startApp, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';

// The database refuses an email that ends in .invalid.
const TRIGGER = `
  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.email LIKE '%.invalid' THEN RAISE 'secret' USING ERRCODE = '22001'; END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION refuse()`;

let backend: Backend;
let store: Store;
let database: pg.Client;
let ingress: TestApp;
let worker: TestApp;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  database = new pg.Client({ connectionString: backend.databaseUrl });
  await database.connect();
  await database.query(TRIGGER);
  [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
});
afterAll(async () => {
  await Promise.all([ingress?.stop(), worker?.stop()]);
  await database?.end();
  await store?.close();
  await backend?.drop();
});

const clients: OpmClient[] = [];
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close({ timeoutMs: 0 })));
});
let projects = 0;
async function createClient(): Promise<OpmClient> {
  const { apiKey } = await store.projects.create(`acme ${++projects}`);
  const client = new OpmClient({ url: ingress.url, apiKey });
  clients.push(client);
  return client;
}

const isState = (client: OpmClient, customerId: string, receipt: string | undefined, state: string) =>
  waitFor(async () => (await client.receiptState(customerId, receipt ?? '')).state === state, {
    description: `${customerId} to be ${state}`,
  });

test('each entry of a large compressed batch has a receipt of its customer, and in the end all are stored', async () => {
  const client = await createClient();
  const unsupported = () => ingress.readMetric('opm_answers_total{route="/entries",status="415"}');
  const before = await unsupported();
  const ids = Array.from({ length: 500 }, (_, i) => `batch-${i}`);
  const results = await Promise.all(ids.map((customerId) => client.send({ customerId, customerPhone: '+41' })));
  expect(await unsupported()).toBe(before);
  expect(new Set(results.map(({ receipt }) => receipt)).size).toBe(ids.length);
  await Promise.all(ids.map((id, i) => isState(client, id, results[i]?.receipt, 'stored')));
  await expect(client.receiptState('batch-1', results[0]?.receipt ?? '')).rejects.toMatchObject({
    name: 'InvalidEntryError',
    message: 'path/receipt must be a receipt of this customer',
  });
});

test('an erasure has a receipt, and is stored once the customer is gone', async () => {
  const client = await createClient();
  const sent = await client.send({ customerId: 'a/b', customerPhone: '1' });
  const erased = await client.erase('a/b');
  await isState(client, 'a/b', erased.receipt, 'stored');
  await isState(client, 'a/b', sent.receipt, 'stored');
  expect(await client.get('a/b')).toBeUndefined();
});

test('an entry that the database refuses is told by its receipt, by its customer and by the list of the project', async () => {
  const client = await createClient();
  await client.send({ customerId: 'c', customerEmail: 'jane@example.com' });
  const { receipt } = await client.send({ customerId: 'c', customerEmail: 'jane@example.invalid' });
  await isState(client, 'c', receipt, 'refused');
  const answer = await client.receiptState('c', receipt ?? '');
  const expected = { customerId: 'c', receipt, code: 'VALUE_TOO_LONG', message: expect.any(String), state: 'refused' };
  expect(answer).toMatchObject({ state: 'refused', refused: expected });
  expect(JSON.stringify(answer)).not.toContain('secret');
  expect((await client.get('c'))?.refused).toMatchObject([expected]);

  const list = async (since?: Date) => {
    const all: RefusedEntry[] = [];
    for await (const entry of client.refused({ since })) all.push(entry);
    return all;
  };
  expect(await list()).toMatchObject([expected]);
  expect(await list(new Date(Date.now() + 60_000))).toEqual([]);
});

test('the list goes over all its pages', async () => {
  const client = await createClient();
  const ids = Array.from({ length: 1_100 }, (_, i) => `refused-${i}`);
  await Promise.all(ids.map((customerId) => client.send({ customerId, customerEmail: 'jane@example.invalid' })));
  const listed = async () => {
    const found = new Set<string>();
    for await (const { customerId } of client.refused()) found.add(customerId);
    return found.size === ids.length;
  };
  await waitFor(listed, { description: 'all refused entries' });
});
