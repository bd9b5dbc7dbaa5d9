import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { createApiKey } from '@opm/core';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, startApp, startProxy, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';

let backend: Backend;
let store: Store;
let postgres: Awaited<ReturnType<typeof startProxy>>;
let apiKey: string;
let ingresses: TestApp[];

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  postgres = await startProxy(backend.databaseUrl);
  ({ apiKey } = await store.projects.create('acme'));
});
afterAll(async () => {
  await postgres.close();
  await store.close();
  await backend.drop();
});
// Each test uses new addresses, which have tried no unknown keys yet.
beforeEach(async () => {
  const env = { ...backend.env, DATABASE_URL: postgres.url, TRUSTED_PROXIES: '1' };
  ingresses = await Promise.all([startApp('ingress', env), startApp('ingress', env)]);
});
afterEach(() => Promise.all(ingresses.map((ingress) => ingress.stop())));

const ping = async (key: string, { ingress = ingresses[0], address = '203.0.113.1' } = {}) => {
  const response = await fetch(`${ingress?.url}/ping`, { headers: { 'x-api-key': key, 'x-forwarded-for': address } });
  const { message } = (await response.json()) as { message: string };
  return { status: response.status, retryAfter: response.headers.get('retry-after'), message };
};
const OK = { status: 200, retryAfter: null, message: 'pong' };
const UNKNOWN = { status: 401, retryAfter: null, message: 'API key does not exist' };
const LIMITED = {
  status: 429,
  retryAfter: expect.stringMatching(/^([1-9]|10)$/),
  message: 'too many API keys that do not exist, try again',
};

const PAUSED = { status: 403, retryAfter: null, message: 'project is paused' };

test('a paused project gets 403 everywhere within a second or so, until it is resumed, and others go on', async () => {
  const [paused, other] = await Promise.all([store.projects.create('paused'), store.projects.create('another')]);
  const all = () => Promise.all(ingresses.map((ingress) => ping(paused.apiKey, { ingress })));
  expect(await all()).toEqual([OK, OK]);
  await store.projects.setPaused(paused.projectId, true);
  await waitFor(async () => (await all()).every(({ status }) => status === 403), { description: 'the pause' });
  expect(await all()).toEqual([PAUSED, PAUSED]);
  const headers = { 'x-api-key': paused.apiKey };
  const requests: [string, string][] = [
    ['POST', '/entry'],
    ['POST', '/entries'],
    ['GET', '/entry/1'],
    ['DELETE', '/entry/1'],
  ];
  for (const [method, path] of requests) {
    const response = await fetch(ingresses[0]?.url + path, { method, headers });
    expect(await response.json()).toEqual({ statusCode: 403, error: 'Forbidden', message: 'project is paused' });
  }
  const logged = () => ingresses[0]?.output().match(/.*PROJECT_PAUSED.*/g) ?? [];
  await waitFor(() => logged().length > 0, { description: 'the log line' });
  expect(logged().map((line) => JSON.parse(line))).toEqual([
    expect.objectContaining({ projectId: paused.projectId, requestId: expect.any(String), leftOut: 0 }),
  ]);
  expect(await ping(other.apiKey)).toEqual(OK);
  await store.projects.setPaused(paused.projectId, false);
  await waitFor(async () => (await all()).every(({ status }) => status === 200), {
    description: 'the end of the pause',
  });
});

/**
 * Tries at once as many unknown keys as an address may try in ten seconds. Even a slow machine needs less time for
 * that.
 * @returns the keys
 */
async function tryTwenty(toAddress = (_i: number) => '203.0.113.1'): Promise<string[]> {
  const keys = Array.from({ length: 20 }, createApiKey);
  const answers = await Promise.all(keys.map((key, i) => ping(key, { address: toAddress(i) })));
  expect(answers).toEqual(keys.map(() => UNKNOWN));
  return keys;
}

/** Checks that no request is accepted that is sent a second after the key has ended. */
async function untilUnknown(key: string, ended: number, ingress = ingresses[0]): Promise<void> {
  for (;;) {
    const sentAt = performance.now();
    const answer = await ping(key, { ingress });
    if (answer.status !== 200) {
      expect(answer).toEqual(UNKNOWN);
      return;
    }
    expect(sentAt - ended).toBeLessThan(1_000);
  }
}

test('a revoked or rotated key ends in every ingress within a second, however busy it is', async () => {
  const rotating = await store.projects.create('rotating');
  for (const end of [
    () => store.apiKeys.rotate(rotating.projectId, { graceMs: 0 }).then(({ apiKey }) => apiKey),
    () => store.apiKeys.revoke(rotating.projectId).then(() => undefined),
  ]) {
    const old = rotating.apiKey;
    for (const ingress of ingresses) expect(await ping(old, { ingress })).toEqual(OK);
    const successor = await end();
    const ended = performance.now();
    for (const ingress of ingresses) await untilUnknown(old, ended, ingress);
    if (successor) {
      expect(await ping(successor)).toEqual(OK);
      rotating.apiKey = successor;
    }
  }
});

test('an address may try twenty unknown keys; valid keys still work, new ones too, and so do other addresses', async () => {
  expect(await ping(apiKey)).toEqual(OK);
  const tried = await tryTwenty();
  expect(await ping(createApiKey())).toEqual(LIMITED);
  const { apiKey: unseen } = await store.projects.create('unseen');
  expect(await ping(unseen)).toEqual(OK);

  expect(await ping(apiKey)).toEqual(OK);
  expect(await ping(String(tried[0]))).toEqual(UNKNOWN);
  expect(await ping('no key at all')).toEqual(UNKNOWN);
  expect(await ping(createApiKey(), { address: '203.0.113.2' })).toEqual(UNKNOWN);
});

test('keys that are tried at the same time count before their look-up, and block no valid key', async () => {
  const good = await Promise.all([1, 2, 3].map((n) => store.projects.create(`behind the same proxy ${n}`)));
  const guesses = Array.from({ length: 100 }, () => ping(createApiKey()));
  expect(await Promise.all(good.map((project) => ping(project.apiKey)))).toEqual([OK, OK, OK]);
  const statuses = (await Promise.all(guesses)).map(({ status }) => status);
  expect(statuses.filter((status) => status === 401)).toHaveLength(20);
  expect(statuses.filter((status) => status === 429)).toHaveLength(80);
});

test('an address is not limited by the unknown keys that another address has tried', async () => {
  await tryTwenty();
  const keys = Array.from({ length: 19 }, createApiKey);
  const both = keys.map((key) => [ping(key), ping(key, { address: '203.0.113.2' })]);
  const answers = await Promise.all(both.map((pair) => Promise.all(pair)));
  expect(answers.map(([, fresh]) => fresh)).toEqual(keys.map(() => UNKNOWN));
});

test('a new valid key is not a guess, however many requests bring it at once', async () => {
  const { apiKey: unseen } = await store.projects.create('eager');
  const answers = await Promise.all(Array.from({ length: 60 }, () => ping(unseen)));
  expect(answers).toEqual(answers.map(() => OK));
  await tryTwenty();
  expect(await ping(createApiKey())).toEqual(LIMITED);
});

test('IPv6 addresses are counted per /64, IPv4 addresses one by one', async () => {
  await tryTwenty((i) => `2001:db8:1:1::${i.toString(16)}`);
  expect(await ping(createApiKey(), { address: '2001:db8:1:1:ffff::1' })).toEqual(LIMITED);
  expect(await ping(createApiKey(), { address: '2001:db8:1:2::1' })).toEqual(UNKNOWN);
  await tryTwenty(() => '::ffff:203.0.113.7');
  expect(await ping(createApiKey(), { address: '203.0.113.7' })).toEqual(LIMITED);
  expect(await ping(createApiKey(), { address: '::ffff:203.0.113.8' })).toEqual(UNKNOWN);
});

test('an address that has tried too many keys gets the time to wait, and may then try more', async () => {
  await tryTwenty();
  const first = await ping(createApiKey());
  const retryAt = performance.now() + Number(first.retryAfter) * 1_000;
  expect(first.status).toBe(429);
  let last = { ...first, sentAt: 0 };
  const isLetIn = async () => {
    const sentAt = performance.now();
    const answer = await ping(createApiKey());
    if (answer.status === 429) last = { ...answer, sentAt };
    return answer.status === 401;
  };
  await waitFor(isLetIn, { description: 'the next try' });
  expect(last.sentAt).toBeLessThan(retryAt);
  expect(Number(last.retryAfter)).toBeLessThan(Number(first.retryAfter));
});

test('a revoked key that nobody used becomes invalid even while customers cannot be looked up', async () => {
  const idle = await store.projects.create('idle');
  expect(await ping(idle.apiKey)).toEqual(OK);
  await store.apiKeys.revoke(idle.projectId);
  const revoked = performance.now();
  const client = new pg.Client({ connectionString: backend.databaseUrl });
  await client.connect();
  const post = async (customerId = 'looked up in vain') => {
    const body = JSON.stringify({ customerId, customerPhone: '+1' });
    const response = await fetch(`${ingresses[0]?.url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body,
    });
    await response.arrayBuffer();
    return response.status;
  };
  expect(await post('before')).toBe(201); // from now on the queue store knows the shard's versions
  await client.query('BEGIN');
  await client.query('LOCK TABLE customers IN ACCESS EXCLUSIVE MODE');
  // An entry of an unknown customer is accepted as an update, because the ingress cannot look it up.
  expect(await post()).toBe(202);
  expect(await ingresses[0]?.readMetric('opm_existence_unknown_total')).toBe(1);
  await untilUnknown(idle.apiKey, revoked);
  expect(await post()).toBe(202);
  expect(await ping(idle.apiKey)).toEqual(UNKNOWN);
  await client.query('ROLLBACK');
  await client.end();
});

test('a key that is cached as unknown needs no PostgreSQL: it is a 401 even during an outage', async () => {
  const wrong = createApiKey();
  expect(await ping(wrong)).toEqual(UNKNOWN);
  expect(await ping(apiKey)).toEqual(OK);
  await postgres.cut();
  for (let i = 0; i < 20; i++) expect(await ping(wrong)).toEqual(UNKNOWN);
  expect(await ping(createApiKey())).toMatchObject({ status: 503, message: 'API key could not be checked, try again' });
  expect(await ping(apiKey)).toEqual(OK);
  await postgres.restore();
});
