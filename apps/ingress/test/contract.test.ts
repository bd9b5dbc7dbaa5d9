import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { brotliCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { toOpenApiDocument } from '@opm/contract';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp } from '@opm/testkit';

const JSON_TYPE = { 'content-type': 'application/json' };
const unauthorized = (message: string) => ({ statusCode: 401, error: 'Unauthorized', message });
const badRequest = (message: string) => ({ statusCode: 400, error: 'Bad Request', message });

describe.each(BACKENDS)('the contract, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let apiKey: string;
  let nextId = 1;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey } = await store.projects.create('acme'));
    ingress = await startApp('ingress', backend.env);
  });
  afterAll(async () => {
    expect(await ingress.stop()).toEqual({ code: 0, signal: null });
    await store.close();
    await backend.drop();
  });

  const call = (path: string, { headers, ...init }: RequestInit = {}) =>
    fetch(ingress.url + path, { ...init, headers: { 'x-api-key': apiKey, ...(headers as Record<string, string>) } });
  const post = (body: unknown, headers: Record<string, string> = JSON_TYPE, path = '/entry') =>
    call(path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), headers });
  const fresh = () => ({ customerId: nextId++, customerEmail: 'jane@example.com' });

  const CREATED = '{"statusCode":201,"message":"OK - Created"}';
  const UPDATED = '{"statusCode":202,"message":"OK - Update accepted"}';

  test('GET /ping with a valid key is a pong, byte for byte', async () => {
    const response = await call('/ping');
    expect([response.status, await response.text()]).toEqual([200, '{"statusCode":200,"message":"pong"}']);
    expect(response.headers.get('content-type')).toBe('application/json; charset=utf-8');
    expect((await call('/ping', { method: 'HEAD' })).status).toBe(200);
  });

  test('a new customer is a 201 and a known one a 202, byte for byte', async () => {
    const entry = fresh();
    const first = await post(entry);
    expect([first.status, await first.text()]).toEqual([201, CREATED]);
    const second = await post({ ...entry, customerId: String(entry.customerId), customerPhone: '+41' });
    expect([second.status, await second.text()]).toEqual([202, UPDATED]);
  });

  test('an entry is answered and counted the same for every spelling of its path', async () => {
    const counts = ['201', '202', '400', '401', '415'].map(
      (status) => `opm_answers_total{route="/entry",status="${status}"}`,
    );
    const answersOf = async (path: string) => {
      const entry = fresh();
      const before = await Promise.all(counts.map(ingress.readMetric));
      const answers: unknown[] = [];
      for (const [body, headers] of [
        [entry],
        [entry],
        [{ customerId: 1 }],
        [entry, { ...JSON_TYPE, 'x-api-key': 'wrong' }],
        [entry, { 'content-type': 'multipart/form-data' }],
      ] as const) {
        const response = await post(body, headers, path);
        const { date, 'x-request-id': id, ...rest } = Object.fromEntries(response.headers);
        answers.push([response.status, await response.text(), Object.keys(rest), date !== undefined, id !== undefined]);
      }
      const after = await Promise.all(counts.map(ingress.readMetric));
      return { answers, counted: after.map((count, i) => count - (before[i] ?? 0)) };
    };
    const expected = await answersOf('/entry');
    expect(expected.counted).toEqual([1, 1, 1, 1, 1]);
    for (const path of ['/entry?source=crm', '/entry/', '/ENTRY']) expect(await answersOf(path)).toEqual(expected);
  });

  test('customers belong to the project of the key', async () => {
    const other = await store.projects.create('another');
    const entry = fresh();
    expect((await post(entry)).status).toBe(201);
    expect((await post(entry, { ...JSON_TYPE, 'x-api-key': other.apiKey })).status).toBe(201);
  });

  describe('a key', () => {
    test.each(['/ping', '/entry', '/nowhere', '/'])('that is wrong is a 401 on %s', async (path) => {
      for (const wrong of ['x', `opm_${'a'.repeat(36)}`, `${apiKey}x`, apiKey.toLowerCase(), `${apiKey}, ${apiKey}`]) {
        const response = await call(path, { headers: { 'x-api-key': wrong } });
        expect([response.status, await response.text()]).toEqual([
          401,
          '{"statusCode":401,"error":"Unauthorized","message":"API key does not exist"}',
        ]);
      }
    });

    test('that is missing is a 401 with its own message', async () => {
      for (const init of [{}, { method: 'POST' }, { headers: { 'x-api-key': '' } }]) {
        const response = await fetch(ingress.url + ('method' in init ? '/entry' : '/ping'), init);
        expect([response.status, await response.json()]).toEqual([401, unauthorized('API key is required')]);
      }
    });
  });

  describe('a body', () => {
    test.each<[string, unknown, string]>([
      [
        'without email and phone',
        { customerId: 1, customerFirstName: 'Jane' },
        "body must have either required property 'customerEmail' or 'customerPhone'",
      ],
      ['with a number as email', { customerId: 1, customerEmail: 5 }, 'body/customerEmail must be string'],
      ['with an email and no customerId', { customerEmail: 'a' }, "body must have required property 'customerId'"],
      [
        'with U+0000',
        { customerId: 1, customerEmail: 'a\0' },
        'body/customerEmail must not contain U+0000 or unpaired surrogates',
      ],
      [
        'with an unpaired surrogate',
        '{"customerId":1,"customerEmail":"\\ud800"}',
        'body/customerEmail must not contain U+0000 or unpaired surrogates',
      ],
      ['that is an array', [], 'body must be object'],
      ['that is a string', '"x"', 'body must be object'],
      ['that is null', 'null', 'body must be object'],
      ['that is empty', '', 'body must be object'],
      ['that is cut off', '{"customerId":', 'body must be valid JSON'],
      ['with a byte order mark', '\ufeff{}', 'body must be valid JSON'],
      ['that is deeply nested', '['.repeat(16_000), 'body must be valid JSON'],
    ])('%s is a 400', async (_, body, message) => {
      const response = await post(body);
      expect([response.status, await response.json()]).toEqual([400, badRequest(message)]);
    });

    test('that is not UTF-8 is a 400', async () => {
      const body = Buffer.concat([
        Buffer.from('{"customerId":1,"customerEmail":"'),
        Buffer.from([0xff, 0xfe]),
        Buffer.from('"}'),
      ]);
      const response = await call('/entry', { method: 'POST', body });
      expect([response.status, await response.json()]).toEqual([400, badRequest('body must be valid JSON')]);
    });

    test.each(['text/plain', 'application/octet-stream', 'application/json; charset=utf-8', 'x'])(
      'is read as JSON under %s',
      async (type) => {
        expect((await post(fresh(), { 'content-type': type })).status).toBe(201);
      },
    );

    test.each(['application/x-www-form-urlencoded', 'Multipart/form-data; boundary=x'])(
      'under %s is a 415',
      async (type) => {
        const response = await post(fresh(), { 'content-type': type });
        expect([response.status, await response.json()]).toEqual([
          415,
          { statusCode: 415, error: 'Unsupported Media Type', message: 'body must be JSON' },
        ]);
      },
    );

    test('in another content coding is a 415 that names ours', async () => {
      const headers = { 'content-encoding': 'br', 'content-type': 'application/json' };
      for (const path of ['/entry', '/entries']) {
        const response = await call(path, {
          method: 'POST',
          body: brotliCompressSync(JSON.stringify(fresh())),
          headers,
        });
        expect(response.headers.get('accept-encoding')).toBe('gzip, deflate');
        expect([response.status, await response.json()]).toEqual([
          415,
          { statusCode: 415, error: 'Unsupported Media Type', message: 'content-encoding must be gzip or deflate' },
        ]);
      }
    });

    test('of 16 KiB is accepted, one byte more is a 413, and the connection stays open', async () => {
      const sized = (bytes: number) => {
        const entry = { ...fresh(), other: '' };
        return JSON.stringify({ ...entry, other: 'x'.repeat(bytes - JSON.stringify(entry).length) });
      };
      expect((await post(sized(16 * 1024))).status).toBe(201);
      for (const bytes of [16 * 1024 + 1, 500_000, 3_000_000]) {
        const response = await post(sized(bytes));
        expect([response.status, await response.json()]).toEqual([
          413,
          { statusCode: 413, error: 'Payload Too Large', message: 'body must not be larger than 16 KiB' },
        ]);
      }
    });

    test('with null and "" gives nothing, with __proto__, duplicate keys and huge numbers changes nothing', async () => {
      const id = nextId++;
      const body = `{"__proto__":{"customerEmail":"p"},"constructor":1,"customerId":0,"customerId":${id},"customerEmail":"a","customerPhone":null,"customerIP":"","n":1e400}`;
      expect((await post(body)).status).toBe(201);
      expect((await post(body)).status).toBe(202);
    });
  });

  test('an unknown route is a 404, a wrong method a 405 with Allow', async () => {
    const unknown = await call('/customers');
    expect([unknown.status, await unknown.json()]).toEqual([
      404,
      { statusCode: 404, error: 'Not Found', message: 'route does not exist' },
    ]);
    for (const [path, method, allow] of [
      ['/entry', 'GET', 'POST'],
      ['/entry', 'DELETE', 'POST'],
      ['/ping', 'POST', 'GET, HEAD'],
    ] as const) {
      const response = await call(path, { method });
      expect([response.status, response.headers.get('allow')]).toEqual([405, allow]);
      expect(await response.json()).toEqual({
        statusCode: 405,
        error: 'Method Not Allowed',
        message: 'method is not allowed',
      });
    }
  });

  test('the OpenAPI document needs no key, but an unknown key is a 401', async () => {
    const response = await fetch(`${ingress.url}/openapi.json`);
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/json; charset=utf-8']);
    const { version } = JSON.parse(readFileSync('apps/ingress/package.json', 'utf8'));
    expect(await response.json()).toEqual(toOpenApiDocument({ version }));
    const wrong = await call('/openapi.json', { headers: { 'x-api-key': 'wrong' } });
    expect([wrong.status, await wrong.json()]).toEqual([401, unauthorized('API key does not exist')]);
    const other = await call('/openapi.json', { method: 'POST' });
    expect([other.status, other.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
  });

  test('every answer has a request id: the client’s if it is valid, else a new one', async () => {
    const own = await call('/ping', { headers: { 'x-request-id': 'req-1.a:b' } });
    expect(own.headers.get('x-request-id')).toBe('req-1.a:b');
    for (const insane of ['', ' ', 'a b', 'é', 'x'.repeat(129), '<script>']) {
      const response = await call('/nowhere', { headers: { 'x-request-id': insane } });
      expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    }
  });

  test('invalid HTTP gets a JSON body and does not affect other clients', async () => {
    const { port } = new URL(ingress.url);
    for (const [bytes, status] of [
      ['rubbish\r\n\r\n', 400],
      [`GET /ping HTTP/1.1\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
      ['GET http://[ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 404],
    ] as const) {
      const socket = connect(Number(port), '127.0.0.1').setEncoding('utf8');
      let answer = '';
      socket.on('data', (text: string) => {
        answer += text;
      });
      socket.write(bytes);
      await once(socket, 'close');
      expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
      expect(JSON.parse(answer.slice(answer.indexOf('{')))).toMatchObject({ statusCode: status });
    }
    expect((await call('/ping')).status).toBe(200);
  });

  test('a client that disconnects in the middle of a body causes no answer and no error', async () => {
    const { port } = new URL(ingress.url);
    const before = ingress.output().length;
    const socket = connect(Number(port), '127.0.0.1');
    socket.write(`POST /entry HTTP/1.1\r\nhost: x\r\nx-api-key: ${apiKey}\r\ncontent-length: 100\r\n\r\n{"cust`);
    await once(socket, 'connect');
    socket.destroy();
    expect((await post(fresh())).status).toBe(201);
    expect(ingress.output().slice(before)).toBe('');
  });

  test('metrics count answers by route and status, acknowledgement times and chunk sizes', async () => {
    const read = (metric: string) => ingress.readMetric(metric);
    const before = [await read('opm_answers_total{route="/entry",status="201"}'), await read('opm_ack_seconds_count')];
    expect((await post(fresh())).status).toBe(201);
    expect((await call('/nowhere')).status).toBe(404);
    const after = [await read('opm_answers_total{route="/entry",status="201"}'), await read('opm_ack_seconds_count')];
    expect(after).toEqual(before.map((count) => count + 1));
    expect(await read('opm_answers_total{route="none",status="404"}')).toBeGreaterThan(0);
    expect(await read('opm_answers_total{route="/ping",status="200"}')).toBeGreaterThan(0);
    expect(await read('opm_chunk_entries_count')).toBeGreaterThan(0);
    expect(await read('opm_chunks_in_flight')).toBe(0);
    expect(await read('opm_pending_entries')).toBe(0);
  });

  test('no log line contains partner data or an API key', () => {
    expect(ingress.output()).not.toMatch(/jane@example\.com/);
    expect(ingress.output()).not.toContain(apiKey);
  });
});
