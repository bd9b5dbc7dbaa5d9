import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';

type Sent = { path?: string; type?: string; coding?: string | string[]; body: Buffer; key?: string };
type Answer = { status: number; headers: Record<string, unknown>; body: string };

const LINES = 'application/x-ndjson';
const MIB = 2 ** 20;
const CREATED = '{"statusCode":201,"message":"OK - Created"}';
const UPDATED = '{"statusCode":202,"message":"OK - Update accepted"}';
const toError = (statusCode: number, error: string, message: string) => JSON.stringify({ statusCode, error, message });
const NOT_SUPPORTED = toError(415, 'Unsupported Media Type', 'content-encoding must be gzip or deflate');
const NOT_GZIP = toError(400, 'Bad Request', 'body must be valid gzip');
const NOT_DEFLATE = toError(400, 'Bad Request', 'body must be valid deflate');
const TOO_LARGE = toError(413, 'Payload Too Large', 'body must not be larger than 16 KiB');
const BATCH_TOO_LARGE = toError(413, 'Payload Too Large', 'body must not be larger than 1 MiB');

/** The ways to send one entry. */
const WAYS: [name: string, path: string, type: string, isKeyed: boolean][] = [
  ['an entry', '/entry', 'application/json', false],
  ['an entry with a key', '/entry', 'application/json', true],
  ['an array', '/entries', 'application/json', false],
  ['an array with a key', '/entries', 'application/json', true],
  ['lines', '/entries', LINES, false],
  ['lines with a key', '/entries', LINES, true],
];

describe.each(BACKENDS)('compressed bodies, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let worker: TestApp;
  let apiKey: string;
  let projectId: number;
  /** One connection, which every answer must leave open. */
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
  });
  afterAll(async () => {
    agent.destroy();
    expect(await ingress.stop()).toEqual({ code: 0, signal: null });
    await worker.stop();
    await store.close();
    await backend.drop();
  });

  let nextId = 1;
  const fresh = () => ({ customerId: `compressed ${nextId++}`, customerEmail: 'jane@example.com' });
  const toHeaders = ({ type = 'application/json', coding, key }: Omit<Sent, 'body'>): Record<string, string> => ({
    'x-api-key': apiKey,
    'content-type': type,
    ...(coding !== undefined && { 'content-encoding': coding as string }), // of a list, Node makes two headers
    ...(key !== undefined && { 'idempotency-key': key }),
  });
  async function send({ path = '/entry', body, ...sent }: Sent): Promise<Answer> {
    const headers = { ...toHeaders(sent), 'content-length': body.length };
    const outgoing = request(ingress.url + path, { method: 'POST', agent, headers });
    outgoing.end(body);
    const [response] = await once(outgoing, 'response');
    const answer = { status: response.statusCode, headers: response.headers, body: await text(response) };
    return answer.status === 503 ? send({ path, body, ...sent }) : answer; // a busy machine may refuse some
  }
  const toBody = (entry: object, path: string, type: string) =>
    JSON.stringify(path === '/entries' && type !== LINES ? [entry] : entry);
  /** The answer to one entry, from the single call or the batch. */
  const toResult = ({ status, body }: Answer) => (status === 207 ? JSON.stringify(JSON.parse(body).results[0]) : body);
  const find = (customerId: string) => store.customers.find(projectId, customerId);

  test.each<[coding: string, compress: (text: string) => Buffer]>([
    ['gzip', (text) => gzipSync(text)],
    ['GZip', (text) => gzipSync(text)],
    ['x-gzip', (text) => gzipSync(text)],
    ['deflate', (text) => deflateSync(text)],
    [' Deflate\t', (text) => deflateSync(text)],
    ['gzip', (text) => Buffer.concat([gzipSync(text.slice(0, 9)), gzipSync(''), gzipSync(text.slice(9))])],
    ['identity', (text) => Buffer.from(text)],
    ['IDENTITY', (text) => Buffer.from(text)],
    ['', (text) => Buffer.from(text)],
  ])('an entry in the coding "%s" is accepted and stored, in every way to send it', async (coding, compress) => {
    for (const [name, path, type, isKeyed] of WAYS) {
      const entry = fresh();
      const update = { ...entry, customerPhone: name };
      const results: string[] = [];
      for (const [i, value] of [entry, update].entries()) {
        const key = isKeyed ? { key: `${entry.customerId} ${i}`.replaceAll(' ', '-') } : {};
        results.push(toResult(await send({ path, type, coding, body: compress(toBody(value, path, type)), ...key })));
      }
      expect([name, ...results]).toEqual([name, CREATED, UPDATED]);
      const isStored = async () => (await find(entry.customerId))?.phone === name;
      await waitFor(isStored, { description: 'the update to be stored' });
    }
  });

  const plain = () => JSON.stringify(fresh());
  test.each<[what: string, coding: string | string[], body: () => Buffer, answer: string]>([
    ['that is empty', 'gzip', () => Buffer.alloc(0), NOT_GZIP],
    ['that is empty', 'deflate', () => Buffer.alloc(0), NOT_DEFLATE],
    ['that is not compressed', 'gzip', () => Buffer.from(plain()), NOT_GZIP],
    ['that is cut off', 'gzip', () => gzipSync(plain()).subarray(0, -1), NOT_GZIP],
    ['that is cut off', 'deflate', () => deflateSync(plain()).subarray(0, -1), NOT_DEFLATE],
    ['with a wrong checksum', 'gzip', () => withChanged(gzipSync(plain()), -8), NOT_GZIP],
    ['with a wrong length', 'gzip', () => withChanged(gzipSync(plain()), -4), NOT_GZIP],
    ['with a wrong checksum', 'deflate', () => withChanged(deflateSync(plain()), -1), NOT_DEFLATE],
    ['with bytes behind its end', 'gzip', () => Buffer.concat([gzipSync(plain()), Buffer.from('x')]), NOT_GZIP],
    ['with zeros behind its end', 'gzip', () => Buffer.concat([gzipSync(plain()), Buffer.alloc(8)]), NOT_GZIP],
    ['twice', 'deflate', () => Buffer.concat([deflateSync(plain()), deflateSync(plain())]), NOT_DEFLATE],
    ['without a header', 'deflate', () => deflateRawSync(plain()), NOT_DEFLATE],
    ['that needs a dictionary', 'deflate', () => deflateSync(plain(), { dictionary: Buffer.from('Id') }), NOT_DEFLATE],
    ['that is in gzip', 'deflate', () => gzipSync(plain()), NOT_DEFLATE],
    ['that is in deflate', 'gzip', () => deflateSync(plain()), NOT_GZIP],
    ['compressed twice', 'gzip, gzip', () => gzipSync(gzipSync(plain())), NOT_SUPPORTED],
    ['compressed twice', ['gzip', 'gzip'], () => gzipSync(gzipSync(plain())), NOT_SUPPORTED],
    ['with two headers', ['identity', 'gzip'], () => gzipSync(plain()), NOT_SUPPORTED],
    ['with a list', 'gzip,', () => gzipSync(plain()), NOT_SUPPORTED],
    ['in an unknown coding', 'br', () => gzipSync(plain()), NOT_SUPPORTED],
    ['in an unknown coding', 'constructor', () => gzipSync(plain()), NOT_SUPPORTED],
  ])(
    'a body %s in the coding "%s" is refused with its reason, in every way to send it',
    async (_what, coding, body, expected) => {
      for (const [name, path, type, isKeyed] of WAYS) {
        const {
          status,
          headers,
          body: got,
        } = await send({ path, type, coding, body: body(), ...(isKeyed && { key: 'k' }) });
        expect([name, status, got]).toEqual([name, JSON.parse(expected).statusCode, expected]);
        expect(headers['accept-encoding']).toBe(status === 415 ? 'gzip, deflate' : undefined);
        expect(headers.connection).toBe('keep-alive');
      }
    },
  );

  test.each<[what: string, body: Buffer]>([
    ['inflates to a byte more than the limit', gzipSync(Buffer.alloc(MIB + 1, ' '))],
    ['inflates to 200 MiB', gzipSync(Buffer.alloc(200 * MIB))],
    ['inflates to 200 MiB in many members', Buffer.concat(Array(200).fill(gzipSync(Buffer.alloc(MIB))))],
    ['is larger than the limit itself', gzipSync(Buffer.alloc(MIB, ' '), { level: 0 })],
    ['is larger than the limit itself and inflates to nothing', Buffer.concat(Array(60_000).fill(gzipSync('')))],
    ['is larger than what we read of it', Buffer.alloc(3 * MIB)],
  ])('a body that %s is a 413, and the connection stays open if we have read it', async (_what, body) => {
    for (const [name, path, type, isKeyed] of WAYS) {
      const answer = await send({ path, type, coding: 'gzip', body, ...(isKeyed && { key: 'k' }) });
      expect([name, answer.body]).toEqual([name, path === '/entry' ? TOO_LARGE : BATCH_TOO_LARGE]);
      expect(answer.headers.connection).toBe(body.length > 2 * MIB ? 'close' : 'keep-alive');
    }
  });

  test('a body that inflates to exactly the limit is accepted', async () => {
    for (const [, path, type] of WAYS) {
      const body = `${toBody(fresh(), path, type)}\n`.padEnd(path === '/entry' ? 16 * 1024 : MIB);
      expect(toResult(await send({ path, type, coding: 'gzip', body: gzipSync(body) }))).toBe(CREATED);
    }
  });

  test('a refused entry of a compressed batch affects no other', async () => {
    const values = [fresh(), { customerId: 1 }, { ...fresh(), other: 'x'.repeat(16 * 1024) }, fresh()];
    for (const [type, body] of [
      ['application/json', JSON.stringify(values)],
      [LINES, values.map((value) => JSON.stringify(value)).join('\n')],
    ] as const) {
      const { body: answer } = await send({ path: '/entries', type, coding: 'gzip', body: gzipSync(body) });
      const statuses = JSON.parse(answer).results.map(({ statusCode }: { statusCode: number }) => statusCode);
      expect(statuses).toEqual([expect.any(Number), 400, 413, expect.any(Number)]);
      expect([statuses[0], statuses[3]].every((status) => status < 300)).toBe(true);
    }
  });

  test('a body is the same request for an idempotency key, however it is compressed', async () => {
    for (const [name, path, type, isKeyed] of WAYS) {
      if (!isKeyed) continue;
      const entry = fresh();
      const key = entry.customerId.replace(' ', '-');
      const body = Buffer.from(toBody(entry, path, type));
      const forms: Partial<Sent>[] = [
        { coding: 'gzip', body: gzipSync(body) },
        { body },
        { coding: 'deflate', body: deflateSync(body) },
      ];
      const answers: [string, unknown][] = [];
      for (const form of forms) {
        const { body: answer, headers } = await send({ path, type, key, body, ...form });
        answers.push([answer, headers['idempotent-replayed']]);
      }
      const first = answers[0]?.[0];
      expect([name, ...answers]).toEqual([name, [first, undefined], [first, 'true'], [first, 'true']]);
      const other = await send({ path, type, key, coding: 'gzip', body: gzipSync(toBody(fresh(), path, type)) });
      expect(other.status).toBe(422);
    }
  });

  test('a client that disconnects in the middle of a compressed upload leaves nothing, and no error is logged', async () => {
    const before = ingress.output().length;
    const entries = Array.from({ length: 1_000 }, fresh);
    const body = gzipSync(entries.map((entry) => JSON.stringify(entry)).join('\n'));
    for (const [, path, type, isKeyed] of WAYS) {
      const headers = toHeaders({ type, coding: 'gzip', ...(isKeyed && { key: 'cut' }) });
      const outgoing = request(ingress.url + path, { method: 'POST', headers }).on('error', () => {});
      await new Promise((resolve) => outgoing.write(body.subarray(0, -1), resolve));
      outgoing.destroy();
    }
    const last = fresh();
    await send({ coding: 'gzip', body: gzipSync(JSON.stringify(last)) });
    await waitFor(() => find(last.customerId), { description: 'the last entry' });
    const ids = entries.map(({ customerId }) => customerId);
    expect((await store.customers.findMany(projectId, ids)).size).toBe(0);
    expect(ingress.output().slice(before)).not.toMatch(/request failed/);
  });

  test('pipelined requests with compressed bodies are each answered in order', async () => {
    const requests = Array.from({ length: 30 }, (_item, i) => {
      const body = i % 3 === 0 ? gzipSync(Buffer.alloc(MIB)) : gzipSync(JSON.stringify(fresh()));
      const headers = { ...toHeaders({ coding: 'gzip' }), 'content-length': body.length, host: 'opm' };
      const head = Object.entries({ ...headers, connection: i === 29 ? 'close' : 'keep-alive' });
      const lines = head.map(([name, value]) => `${name}: ${value}\r\n`).join('');
      return Buffer.concat([Buffer.from(`POST /entry HTTP/1.1\r\n${lines}\r\n`), body]);
    });
    const socket = connect(Number(new URL(ingress.url).port), '127.0.0.1');
    socket.write(Buffer.concat(requests));
    const statuses = Array.from((await text(socket)).matchAll(/HTTP\/1\.1 (\d+)/g), ([, status]) => Number(status));
    expect(statuses).toEqual(requests.map((_request, i) => (i % 3 === 0 ? 413 : 201)));
  });
});

/** Changes one byte, counted from the end. */
function withChanged(bytes: Buffer, at: number): Buffer {
  bytes[bytes.length + at] = (bytes.at(at) ?? 0) ^ 1;
  return bytes;
}
