import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { toOpenApiDocument } from '@opm/contract';
import { createApiKey, hashApiKey, SCOPES, type Scope } from '@opm/core';
import { createStore, type Store } from '@opm/store';
import {
  BACKENDS,
  type Backend,
  createBackend,
  query,
  startApp,
  startProxy,
  type TcpProxy,
  type TestApp,
  waitFor,
} from '@opm/testkit';

const toForbidden = (message: string) => [403, { statusCode: 403, error: 'Forbidden', message }];
const WRONG_SCOPE = toForbidden('API key does not allow this');
const WRONG_ADDRESS = toForbidden('API key must not be used from this address');
const PONG = [200, { statusCode: 200, message: 'pong' }];

/** Every set of scopes. */
const SETS = [1, 2, 3, 4, 5, 6, 7].map((bits): [Scope[]] => [SCOPES.filter((_, i) => bits & (1 << i))]);

const SCOPE_OF: Record<string, Scope> = { POST: 'write', GET: 'read', HEAD: 'read', DELETE: 'erase' };
const toScope = (method: string, path: string) => (path === '/entries/receipts' ? 'read' : SCOPE_OF[method]);

/** Every operation of the OpenAPI document, so that a new route cannot be forgotten. */
const { paths } = toOpenApiDocument({ version: '1.2.3' }) as { paths: Record<string, object> };
const ROUTES = Object.entries(paths).flatMap(([path, methods]) =>
  Object.keys(methods)
    .flatMap((method) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]))
    .map((method): [method: string, path: string] => [method, path.replaceAll(/\{\w+\}/g, '1')]),
);
/** Other spellings of paths. The first two do not take the fast path of POST /entry. */
const SPELLINGS: typeof ROUTES = [
  ['POST', '/entry?a=1'],
  ['POST', '/ENTRY'],
  ['POST', '/entries/'],
  ['GET', '/Keys/'],
  ['GET', '/usage?'],
  ['DELETE', '/entry/%31'],
];

describe.each(BACKENDS)('the rules of a key, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let projectId: number;

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ projectId } = await store.projects.create('acme'));
    ingress = await startApp('ingress', { ...backend.env, TRUSTED_PROXIES: '1' });
  });
  afterAll(async () => {
    await ingress.stop();
    await store.close();
    await backend.drop();
  });

  const ask = async (apiKey: string, method: string, path: string, headers: Record<string, string> = {}) => {
    const entry = JSON.stringify({ customerId: 1, customerEmail: 'jane@example.com' });
    const response = await fetch(ingress.url + path, {
      method,
      headers: { 'x-api-key': apiKey, ...headers },
      ...(method === 'POST' && { body: path.toLowerCase().startsWith('/entries') ? `[${entry}]` : entry }),
    });
    const text = await response.text();
    return [response.status, text === '' ? undefined : JSON.parse(text), response.headers.get('allow')];
  };

  test.each(SETS)('a key for %j does that on every route, and nothing else', async (scopes) => {
    const apiKey = await store.apiKeys.issue(projectId, { scopes });
    expect(ROUTES.length).toBeGreaterThan(8);
    for (const [method, path] of [...ROUTES, ...SPELLINGS]) {
      const [status, body] = await ask(apiKey, method, path);
      const may = path === '/ping' || scopes.includes(toScope(method, path) as Scope);
      const shown = { scopes, method, path };
      if (may) expect({ ...shown, status }).not.toEqual({ ...shown, status: 403 });
      else
        expect({ ...shown, answer: [status, body] }).toEqual({
          ...shown,
          answer: [403, method === 'HEAD' ? undefined : WRONG_SCOPE[1]],
        });
    }
  });

  test.each(SCOPES)(
    'with a key for %s, unknown paths, wrong methods and open routes are answered as ever',
    async (scope) => {
      const apiKey = await store.apiKeys.issue(projectId, { scopes: [scope] });
      const answers = [];
      for (const [method, path] of [
        ['GET', '/nowhere'],
        ['POST', '/nowhere'],
        ['PUT', '/entry'],
        ['GET', '/entries'],
        ['POST', '/keys'],
        ['DELETE', '/usage'],
        ['GET', '/entry/%zz'],
      ] as const) {
        const [status, , allow] = await ask(apiKey, method, path);
        answers.push([status, allow]);
      }
      expect(answers).toEqual([
        ...[404, 404].map((status) => [status, null]),
        ...['POST', 'POST', 'GET, HEAD', 'GET, HEAD'].map((allow) => [405, allow]),
        [400, null],
      ]);
      const open = await fetch(`${ingress.url}/openapi.json`, { headers: { 'x-api-key': apiKey } });
      await open.arrayBuffer();
      expect(open.status).toBe(200);
    },
  );

  test('what a key may not send is not accepted and counts as nothing, and a line of the log says so once', async () => {
    const own = await startApp('ingress', backend.env);
    const { projectId: quiet, apiKey: free } = await store.projects.create('quiet');
    const apiKey = await store.apiKeys.issue(quiet, { scopes: ['read'] });
    const call = async (key: string, method: string, path: string, body?: string) => {
      const response = await fetch(own.url + path, { method, headers: { 'x-api-key': key }, ...(body && { body }) });
      await response.arrayBuffer();
      return response.status;
    };
    const entry = JSON.stringify({ customerId: 'nobody', customerPhone: '+1' });
    for (let i = 0; i < 3; i++) {
      expect(await call(apiKey, 'POST', '/entry', entry)).toBe(403);
      expect(await call(apiKey, 'POST', '/entries', `[${entry}]`)).toBe(403);
      expect(await call(apiKey, 'DELETE', '/entry/nobody')).toBe(403);
    }
    expect(await call(apiKey, 'GET', '/entry/nobody')).toBe(404);
    expect(await call(free, 'POST', '/entry', entry)).toBe(201);
    await own.stop(); // it reports its counts
    const today = (await store.activity.usage(quiet)).map(({ day: __, ...counts }) => counts);
    expect(today).toEqual([
      {
        ...{ created: 1, updated: 0, erased: 0, deadLetters: 0 },
        ...{ refusedInvalid: 0, refusedLimited: 0, refusedUnavailable: 0 },
      },
    ]);
    const logged = own.output().match(/.*refused a project's key.*/g) ?? [];
    expect(logged.map((line) => JSON.parse(line))).toEqual([
      expect.objectContaining({ projectId: quiet, reason: 'KEY_SCOPE', leftOut: 0 }),
    ]);
    expect(own.output()).not.toContain(apiKey.slice(0, 10));
  });

  test.each([
    [['203.0.113.7'], '203.0.113.7', true],
    [['203.0.113.7'], '203.0.113.8', false],
    [['203.0.113.7'], '::ffff:203.0.113.7', true],
    [['198.51.100.1', '203.0.113.0/24'], '203.0.113.255', true],
    [['203.0.113.0/24'], '::ffff:cb00:7101', true],
    [['203.0.113.0/24'], '203.0.114.1', false],
    [['2001:DB8::/32'], '2001:db8:1::1', true],
    [['2001:db8::/32'], '2001:db9::1', false],
    [['2001:db8::/32'], '203.0.113.7', false],
    // A client may add what it likes before the address that the proxy has seen.
    [['203.0.113.7'], '203.0.113.7, 198.51.100.1', false],
    [['203.0.113.7'], '198.51.100.1, 203.0.113.7', true],
    [['203.0.113.7'], '203.0.113.7, unknown', false],
    [['203.0.113.7'], '203.0.113.7:443', false],
    [['203.0.113.7'], '', false],
    [[], '198.51.100.1', true],
  ])('behind a proxy, a key for %j is used from %j: %s', async (addresses, forwarded, may) => {
    const apiKey = await store.apiKeys.issue(projectId, { addresses });
    const headers = { 'x-forwarded-for': forwarded };
    for (let i = 0; i < 2; i++) {
      const [status, body] = await ask(apiKey, 'GET', '/ping', headers);
      expect([status, body]).toEqual(may ? PONG : WRONG_ADDRESS);
      expect((await ask(apiKey, 'POST', '/entry', headers))[0] === 403).toBe(!may);
    }
    expect((await ask(apiKey, 'GET', '/nowhere', headers))[0]).toBe(may ? 404 : 403);
  });

  test('without a proxy, X-Forwarded-For changes nothing', async () => {
    const own = await startApp('ingress', backend.env);
    const [here, elsewhere] = await Promise.all(
      ['127.0.0.1', '203.0.113.7'].map((address) => store.apiKeys.issue(projectId, { addresses: [address] })),
    );
    const ping = async (apiKey = '') => {
      const headers = { 'x-api-key': apiKey, 'x-forwarded-for': '203.0.113.7' };
      const response = await fetch(`${own.url}/ping`, { headers });
      await response.arrayBuffer();
      return response.status;
    };
    expect([await ping(here), await ping(elsewhere)]).toEqual([200, 403]);
    await own.stop();
  });

  test('a key that a process of the release before has stored may do everything, from everywhere', async () => {
    const apiKey = createApiKey();
    await query(
      backend.databaseUrl,
      `INSERT INTO api_keys (project_id, key_hash, hint) VALUES ($1, decode($2, 'hex'), $3)`,
      [projectId, hashApiKey(apiKey), apiKey.slice(0, 10)],
    );
    for (const [method, path] of ROUTES) expect((await ask(apiKey, method, path))[0]).not.toBe(403);
    const owner = (await store.apiKeys.findOwners([hashApiKey(apiKey)])).get(hashApiKey(apiKey));
    expect(Object.keys(owner ?? {}).sort()).toEqual(['isPaused', 'keyId', 'limit', 'projectId']);
  });

  test('a rule that no program has written lets nobody in, and breaks nothing', async () => {
    const apiKey = await store.apiKeys.issue(projectId, { addresses: ['203.0.113.7'] });
    const headers = { 'x-forwarded-for': '203.0.113.7' };
    expect((await ask(apiKey, 'GET', '/ping', headers))[0]).toBe(200);
    const statement = `UPDATE api_keys SET addresses = '{everywhere}' WHERE hint = $1`;
    await query(backend.databaseUrl, statement, [apiKey.slice(0, 10)]);
    const isRefused = async () => (await ask(apiKey, 'GET', '/ping', headers))[0] === 403;
    await waitFor(isRefused, { description: 'the rule to be read' });
  });
});

describe('while PostgreSQL is away,', () => {
  let backend: Backend;
  let store: Store;
  let postgres: TcpProxy;
  let ingress: TestApp;

  beforeAll(async () => {
    backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    postgres = await startProxy(backend.databaseUrl);
    ingress = await startApp('ingress', { ...backend.env, DATABASE_URL: postgres.url, TRUSTED_PROXIES: '1' });
  });
  afterAll(async () => {
    await ingress.stop();
    await postgres.close();
    await store.close();
    await backend.drop();
  });

  test('keys keep their rules, and a paused project is told that first', async () => {
    const { projectId } = await store.projects.create('acme');
    const apiKey = await store.apiKeys.issue(projectId, { scopes: ['write'], addresses: ['203.0.113.0/24'] });
    const ask = async (method: string, path: string, address: string) => {
      const response = await fetch(ingress.url + path, {
        method,
        headers: { 'x-api-key': apiKey, 'x-forwarded-for': address },
        ...(method === 'POST' && { body: '{"customerId":1,"customerPhone":"+1"}' }),
      });
      return [response.status, await response.json()];
    };
    // From now on, the queue store knows the shard's versions.
    expect((await ask('POST', '/entry', '203.0.113.7'))[0]).toBe(201);
    await postgres.cut();
    for (let i = 0; i < 2; i++) {
      expect(await ask('GET', '/ping', '203.0.113.7')).toEqual(PONG);
      expect(await ask('GET', '/ping', '198.51.100.1')).toEqual(WRONG_ADDRESS);
      expect(await ask('GET', '/keys', '203.0.113.7')).toEqual(WRONG_SCOPE);
      expect(await ask('DELETE', '/entry/1', '203.0.113.7')).toEqual(WRONG_SCOPE);
      expect((await ask('POST', '/entry', '203.0.113.7'))[0]).toBe(202);
      expect(await ask('POST', '/entry', '198.51.100.1')).toEqual(WRONG_ADDRESS);
    }
    await postgres.restore();
    await store.projects.setPaused(projectId, true);
    const isPaused = async () =>
      ((await ask('GET', '/keys', '198.51.100.1'))[1] as { message: string }).message === 'project is paused';
    await waitFor(isPaused, { description: 'the pause' });
  });
});
