import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { type DayUsage, OpmClient, type ProjectKey, type RefusedEntry } from '@opm/client';
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
  const asked = results.map(({ receipt = '' }, i) => ({ customerId: ids[i] ?? '', receipt }));
  const areStored = async () => (await client.receiptStates(asked)).every(({ state }) => state === 'stored');
  await waitFor(areStored, { description: 'all to be stored' });
  await expect(client.receiptStates([...asked, { customerId: 'x', receipt: 'y' }])).rejects.toMatchObject({
    message: 'body/500/receipt must be a receipt of this customer',
  });
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

const isoTime = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
/** They fail to compile if the types lack a property, and the test fails if the server has another. */
const usage: DayUsage = {
  ...{ day: '', accepted: 0, created: 0, updated: 0, erased: 0 },
  ...{ refused: { invalid: 0, limited: 0, unavailable: 0 }, notStored: 0 },
};
const key: ProjectKey = {
  ...{ hint: '', label: null, scopes: ['write', 'read', 'erase'], addresses: [] },
  ...{ createdAt: '', expiresAt: null, lastUsedAt: null },
};

test('the usage of today counts what was sent, and the keys are those of the project', async () => {
  const client = await createClient();
  const day = (await store.now()).toISOString().slice(0, 10);
  await client.send({ customerId: 'c', customerPhone: '1' });
  const counted = async () => (await client.usage()).find(({ accepted }) => accepted === 1);
  const today = await waitFor(counted, { description: 'the count of the entry' });
  expect(Object.keys(today)).toEqual(Object.keys(usage));
  expect([day, (await store.now()).toISOString().slice(0, 10)]).toContain(today.day);
  expect(await client.usage({ from: new Date('2026-02-28T23:00:00Z'), to: '2026-03-01' })).toEqual([
    { ...usage, day: '2026-02-28' },
    { ...usage, day: '2026-03-01' },
  ]);
  await expect(client.usage({ to: 'today' })).rejects.toMatchObject({
    ...{ name: 'InvalidEntryError', message: 'query/to must be a day such as 2026-11-30' },
  });
  const keys = await client.keys();
  expect(keys).toEqual([
    { ...key, hint: expect.stringMatching(/^opm_\w{6}$/), createdAt: isoTime, lastUsedAt: keys[0]?.lastUsedAt },
  ]);
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
