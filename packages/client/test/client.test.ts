import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { type Customer, OpmClient, type OpmClientOptions } from '@opm/client';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, startApp, startProxy, type TestApp, waitFor } from '@opm/testkit';
import { startStubServer } from './stub-server.js';

const PACKAGE = join(import.meta.dirname, '..');

let backend: Backend;
let store: Store;
let project: { projectId: number; apiKey: string };
let ingress: TestApp;
let worker: TestApp;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  project = await store.projects.create('acme');
  [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
});
afterAll(async () => {
  await Promise.all([ingress?.stop(), worker?.stop()]);
  await store?.close();
  await backend?.drop();
});

const clients: OpmClient[] = [];
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close({ timeoutMs: 0 })));
});
function createClient(options: Partial<OpmClientOptions> = {}): OpmClient {
  const client = new OpmClient({ url: ingress.url, apiKey: project.apiKey, ...options });
  clients.push(client);
  return client;
}

const find = (customerId: string) => store.customers.find(project.projectId, customerId);

/** Runs code as an ES module inside the package, like a user's program. */
async function run(code: string): Promise<string> {
  const env = { ...process.env, OPM_URL: ingress.url, OPM_KEY: project.apiKey };
  const args = ['--input-type=module', '--eval', code];
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { cwd: PACKAGE, env, timeout: 600_000 });
  expect(stderr).toBe('');
  return stdout;
}

describe('the examples of the README print what it shows:', () => {
  const readme = readFileSync(join(PACKAGE, 'README.md'), 'utf8');
  const examples = [...readme.matchAll(/^## (.*?)$[^#]*?^```js\n(.*?)^```\n+^```text\n(.*?)^```$/gms)];

  test('no example is overlooked', () => {
    expect(examples).toHaveLength(readme.match(/^```js$/gm)?.length ?? 0);
    expect(examples.length).toBeGreaterThan(2);
  });

  test.each(examples.map(([, title = '', code = '', printed = '']) => ({ title, code, printed })))(
    '$title',
    async ({ code, printed }) => {
      expect(await run(code)).toBe(printed);
    },
  );
});

test('the example of the partner guide runs', async () => {
  const guide = readFileSync(join(PACKAGE, '../../docs/partners.md'), 'utf8');
  const [, code = ''] = /^```js\n(.*?)^```$/ms.exec(guide) ?? [];
  expect(await run(`${code} console.log(typeof created);`)).toBe('boolean\n');
});

test('a process with an idle client ends by itself, and so does one that gives up on its calls', async () => {
  const create = `import { OpmClient } from '@opm/client';
    const client = new OpmClient({ url: process.env.OPM_URL, apiKey: process.env.OPM_KEY });
    await client.ping();`;
  expect(await run(`${create} console.log('idle');`)).toBe('idle\n');
  const away = `import { OpmClient } from '@opm/client';
    const client = new OpmClient({ url: 'http://127.0.0.1:1', apiKey: 'x' });
    client.send({ customerId: 1, customerEmail: 'e' }).catch(({ name }) => console.log(name));
    await client.close({ timeoutMs: 300 });`;
  expect(await run(away)).toBe('ClosedError\n');
});

test('a pause for the limit keeps no process alive in which no call is open', async () => {
  const refusing = await startStubServer(() => ({ status: 429, body: {}, headers: { 'retry-after': '500' } }));
  const printed = await run(`import { OpmClient } from '@opm/client';
    const client = new OpmClient({ url: '${refusing.url}', apiKey: 'x', deadlineMs: 600_000 });
    await client.send({ customerId: 1 }, { signal: AbortSignal.timeout(1_000) }).catch(({ name }) => console.log(name));`);
  await refusing.close();
  expect(printed).toBe('TimeoutError\n');
});

test('on a limited project every entry is accepted in the end, and few requests are refused', async () => {
  const { projectId, apiKey } = await store.projects.create('limited');
  await store.projects.setLimit(projectId, { rate: 4, burst: 4 });
  const client = createClient({ apiKey, deadlineMs: 10_000 });
  const inVain = () => ingress.readMetric('opm_shed_total{reason="rate-limit"}');
  const before = await inVain();
  const startedAt = performance.now();
  const calls = Array.from({ length: 60 }, (_, i) => client.send({ customerId: `limited-${i}`, customerPhone: '1' }));
  calls.push(client.send({ customerId: 'limited-0', customerPhone: '2' }));
  const results = await Promise.all(calls);
  expect(results.map(({ created }) => created)).toEqual(calls.map((_, i) => i < 60));
  expect(performance.now() - startedAt).toBeGreaterThan(13_000); // beyond the deadline
  expect((await inVain()) - before).toBeLessThan(2 * calls.length);
});

test('one signal may serve many calls', async () => {
  const printed = await run(`import { OpmClient } from '@opm/client';
    const client = new OpmClient({ url: 'http://127.0.0.1:1', apiKey: 'x' });
    const ended = new AbortController();
    const calls = Array.from({ length: 100 }, (_, customerId) => client.send({ customerId }, { signal: ended.signal }));
    ended.abort();
    const outcomes = await Promise.allSettled(calls);
    console.log(new Set(outcomes.map(({ reason }) => reason.name)));
    await client.close();`);
  expect(printed).toBe("Set(1) { 'AbortError' }\n");
});

test('a customer is created, updated, read, erased and created again', async () => {
  const client = createClient();
  const customerId = 'life';
  await client.ping();
  expect(await client.send({ customerId, customerEmail: 'jane@example.com' })).toMatchObject({ created: true });
  expect(await client.send({ customerId, customerPhone: '+41', customerEmail: null })).toMatchObject({
    created: false,
  });
  const found = await waitFor(
    async () => {
      const answer = await client.get(customerId);
      // The jobs of the two entries may be persisted in either order.
      return answer?.pending === false && answer.customer.customerEmail !== null && answer;
    },
    { description: 'both entries to be stored' },
  );
  expect(found.customer).toEqual({
    customerId,
    customerEmail: 'jane@example.com',
    customerPhone: '+41',
    customerFirstName: null,
    customerLastName: null,
    customerIP: null,
    createdAt: expect.stringMatching(/Z$/),
    updatedAt: expect.stringMatching(/Z$/),
  });
  expect(await client.erase(customerId)).toMatchObject({ erased: true });
  expect(await client.get(customerId)).toBeUndefined();
  expect(await client.send({ customerId, customerEmail: 'new' })).toMatchObject({ created: true });
});

test('an id may be any string that can be stored', async () => {
  const client = createClient();
  for (const customerId of ['a/b', '.', '..', '%2F', 'ü ?#&', '😀', '"', '__proto__', 42]) {
    await client.send({ customerId, customerPhone: '1' });
    expect((await client.get(customerId))?.customer.customerId).toBe(String(customerId));
    expect(await client.erase(customerId)).toMatchObject({ erased: true });
  }
});

test('a refused entry rejects with the server’s message, and affects no other entry', async () => {
  const client = createClient();
  const customers = [
    { customerId: 'good', customerEmail: 'e' },
    { customerId: 'neither', customerFirstName: 'Jane' },
    { customerEmail: 'nobody' },
    { customerId: 'wrong', customerEmail: 42 },
    { customerId: 'good', customerPhone: '1' },
  ] as Customer[];
  const invalid = (message: string) => ({ reason: { name: 'InvalidEntryError', statusCode: 400, message } });
  expect(await Promise.allSettled(customers.map((customer) => client.send(customer)))).toMatchObject([
    { value: { created: true } },
    invalid("body must have either required property 'customerEmail' or 'customerPhone'"),
    invalid("body must have required property 'customerId'"),
    invalid('body/customerEmail must be string'),
    { value: { created: false } },
  ]);
});

test('the server accepts the largest batches, and every entry becomes a row', async () => {
  const client = createClient();
  const small = Array.from({ length: 2_500 }, (_, i) => ({ customerId: `small-${i}`, customerPhone: '1' }));
  const large = Array.from({ length: 1_500 }, (_, i) => ({
    customerId: `large-${i}`,
    customerEmail: '€'.repeat(320),
    customerLastName: '€'.repeat(100),
  }));
  const all = [...small, ...large];
  await Promise.all(all.map((customer) => client.send(customer)));
  const asked = all.map(({ customerId }) => ({
    projectId: project.projectId,
    customerId,
    version: Number.MAX_SAFE_INTEGER,
  }));
  const areStored = async () => (await store.customers.findExisting(asked)).size === all.length;
  await waitFor(areStored, { description: 'all rows' });
});

test('after a key is revoked, calls reject with AuthenticationError, and what was accepted before is stored', async () => {
  const { projectId, apiKey } = await store.projects.create('revoked');
  const client = createClient({ apiKey });
  let last: string | undefined;
  const failure = await (async () => {
    for (let i = 0; ; i++) {
      const failed = await client.send({ customerId: 'c', customerPhone: String(i) }).then(
        () => undefined,
        (error) => error,
      );
      if (failed) return failed;
      last = String(i);
      if (i === 20) await store.apiKeys.revoke(projectId, {});
    }
  })();
  expect(failure).toMatchObject({ name: 'AuthenticationError', statusCode: 401, message: 'API key does not exist' });
  expect(failure.requestId).toEqual(expect.any(String));
  await expect(client.get('c')).rejects.toMatchObject({ name: 'AuthenticationError' });
  const isStored = async () => (await store.customers.find(projectId, 'c'))?.phone === last;
  await waitFor(isStored, { description: 'the last accepted entry' });
});

test.each([
  ['one entry', 1],
  ['a compressed batch', 300],
])('if the answer to %s is lost, the retry still reports that the customers were created', async (_, count) => {
  const proxy = await startProxy(ingress.url);
  const client = createClient({ url: proxy.url });
  await client.ping();
  proxy.hold();
  const answers = () => ingress.readMetric('opm_answers_total{route="/entries",status="207"}');
  const before = await answers();
  const ids = Array.from({ length: count }, (_, i) => `lost answer ${i} of ${count}`);
  const sent = Promise.all(ids.map((customerId) => client.send({ customerId, customerPhone: '1' })));
  await waitFor(async () => (await answers()) > before, { description: 'the answer' });
  await proxy.cut();
  proxy.release();
  await proxy.restore();
  expect(await sent).toMatchObject(ids.map(() => ({ created: true })));
  expect(await answers()).toBe(before + 2);
  await client.close();
  await proxy.close();
});

test('without a server, a call fails after its deadline, and the client works once there is one', async () => {
  const proxy = await startProxy(ingress.url);
  await proxy.cut();
  const client = createClient({ url: proxy.url, deadlineMs: 10_000 });
  await expect(client.send({ customerId: 'away', customerPhone: '1' })).rejects.toMatchObject({
    name: 'ConnectionError',
    message: expect.stringMatching(/^no answer from http:\/\/127\.0\.0\.1:\d+: ECONNREFUSED$/),
  });
  await proxy.restore();
  expect(await client.send({ customerId: 'away', customerPhone: '1' })).toMatchObject({ created: true });
  expect((await find('away')) ?? (await client.get('away'))).toBeTruthy();
  await client.close();
  await proxy.close();
});
