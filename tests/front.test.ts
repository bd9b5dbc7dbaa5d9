import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rename, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type RequestOptions, request } from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { connect as connectTls, type SecureVersion, type TLSSocket } from 'node:tls';
import { deflateSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { createStore } from '@opm/store';
import { type Backend, createBackend, startApp, type TestApp, waitFor } from '@opm/testkit';
import { createCertificates } from './create-certificates.js';
import { startFront } from './start-front.js';

const MIB = 1024 * 1024;

let backend: Backend;
let ingress: TestApp;
let front: Awaited<ReturnType<typeof startFront>>;
/** nginx with no ingress behind it. */
let lonelyFront: typeof front;
/** Answers with the headers of the request. */
let console: Server;
let apiKey: string;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  ({ apiKey } = await store.projects.create('acme'));
  await store.close();
  ingress = await startApp('ingress', { ...backend.env, TRUSTED_PROXIES: '1' });
  const free = await Promise.all([findFreePort(), findFreePort(), findFreePort(), findFreePort()]);
  front = await startFront([Number(new URL(ingress.url).port), ...free.slice(1)]);
  console = createServer(({ headers }, response) => void response.end(JSON.stringify(headers))).listen(0, '127.0.0.1');
  await once(console, 'listening');
  lonelyFront = await startFront(free, {
    consolePort: (console.address() as AddressInfo).port,
    operators: '127.0.0.1',
  });
});
afterAll(async () => {
  await front?.stop();
  await lonelyFront?.stop();
  console?.close();
  await ingress?.stop();
  await backend?.drop();
});

type RawRequest = {
  method?: string;
  path?: string;
  headers?: Record<string, string | undefined>;
  body?: string;
  version?: string;
};

/** Sends the request unchanged, and reads until the connection ends. */
async function send(url: string, sent: RawRequest) {
  const { method = 'GET', path = '/ping', headers = {}, body = '', version = '1.1' } = sent;
  const all = { host: 'opm', connection: 'close', 'x-api-key': apiKey, ...headers };
  const lines = Object.entries(all).map(([name, value]) => (value === undefined ? '' : `${name}: ${value}\r\n`));
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.on('error', () => {}); // A server that refuses a body need not read all of it.
  socket.write(`${method} ${path} HTTP/${version}\r\n${lines.join('')}\r\n${body}`);
  const [head = '', ...rest] = (await text(socket)).split('\r\n\r\n');
  const [status = '', ...fields] = head.split('\r\n');
  return {
    status: Number(status.split(' ')[1]),
    headers: new Headers(fields.map((field) => field.split(': ', 2) as [string, string])),
    body: rest.join('\r\n\r\n'),
  };
}

const pickFixed = (headers: Headers) =>
  ['content-type', 'cache-control', 'x-content-type-options', 'retry-after'].map((name) => headers.get(name));

test.each<[string, RawRequest]>([
  ['a body of 3 MB', { method: 'POST', path: '/entries', headers: { 'content-length': String(3 * MIB) } }],
  ['a path of 20 KiB', { path: `/${'a'.repeat(20 * 1024)}` }],
  ['a header of 20 KiB', { headers: { 'x-long': 'a'.repeat(20 * 1024) } }],
  ['headers of 50 KiB', { headers: Object.fromEntries([1, 2, 3, 4].map((n) => [`x-${n}`, 'a'.repeat(12_800)])) }],
  ['a header without a name', { headers: { '': 'a' } }],
  ['an unknown version of HTTP', { version: '7.0' }],
  ['a refused method', { method: 'TRACE' }],
  ['the path that nginx keeps for itself', { path: '/opm-answer' }],
  ['no host', { headers: { host: undefined } }],
])('%s gets the same answer with and without nginx', async (_, sent) => {
  const [behind, without] = [await send(front.url, sent), await send(ingress.url, sent)];
  expect(JSON.parse(behind.body)).toEqual(JSON.parse(without.body));
  expect(behind.status).toBe(without.status);
  expect(pickFixed(behind.headers)).toEqual(pickFixed(without.headers));
  expect(behind.headers.get('x-request-id')).toBeTruthy();
});

test.each([
  ['gzip', gzipSync, 1],
  ['deflate', deflateSync, 1],
  ['gzip', gzipSync, 3_000],
] as const)('a body in %s reaches the ingress as it is', async (coding, compress, entries) => {
  const lines = Array.from({ length: entries }, (_item, i) => `{"customerId":${i},"customerPhone":"+${i}"}\n`).join('');
  const answers = [front, ingress].map(async ({ url }) => {
    const headers = { 'x-api-key': apiKey, 'content-type': 'application/x-ndjson', 'content-encoding': coding };
    const response = await fetch(`${url}/entries`, { method: 'POST', headers, body: new Uint8Array(compress(lines)) });
    const { statusCode, message, accepted } = (await response.json()) as Record<string, unknown>;
    return { statusCode, message, accepted };
  });
  const [behind, without] = await Promise.all(answers);
  expect(behind).toEqual(without);
  expect(behind?.statusCode).toBe(entries === 1 ? 207 : 413);
});

test('headers of 15 KiB, one of them of 9 KiB, reach the ingress', async () => {
  const headers = { 'x-long': 'a'.repeat(9 * 1024), 'x-short': 'a'.repeat(6 * 1024) };
  expect(await send(front.url, { headers })).toMatchObject({
    status: 200,
    body: '{"statusCode":200,"message":"pong"}',
  });
});

test.each(['GET', 'POST'])('a %s that no ingress answers gets a 503 that leaves the outcome open', async (method) => {
  const headers = { 'content-length': '0', 'x-request-id': 'mine' };
  const answer = await send(lonelyFront.url, { method, headers });
  const message = 'request was not answered, try again';
  expect(JSON.parse(answer.body)).toEqual({ statusCode: 503, error: 'Service Unavailable', message });
  expect(answer.status).toBe(503);
  expect(pickFixed(answer.headers)).toEqual(['application/json; charset=utf-8', 'no-store', 'nosniff', '1']);
  expect(answer.headers.get('x-request-id')).toBe('mine');
});

test('HTTP without TLS on the port for TLS gets a 400 in JSON', async () => {
  const answer = await send(`http://127.0.0.1:${front.tlsPort}`, {});
  expect(answer.status).toBe(400);
  expect(JSON.parse(answer.body)).toMatchObject({ statusCode: 400, error: 'Bad Request' });
});

/** Sends a request over a TLS connection of its own. */
async function sendTls({ tlsPort }: typeof front, options: RequestOptions, body = '') {
  const all = { host: '127.0.0.1', port: tlsPort, agent: false, ...options };
  const [response] = (await once(request(all).end(body), 'response')) as [IncomingMessage];
  const certificate = (response.socket as TLSSocket).getPeerCertificate().fingerprint256;
  return { status: response.statusCode, headers: response.headers, certificate, body: await text(response) };
}

test.each(['HEAD', 'POST'])('a %s without TLS is sent to HTTPS, with its method and path', async (method) => {
  const url = `http://127.0.0.1:${front.redirectPort}`;
  const { status, headers } = await send(url, { method, path: '/entry?a=b', headers: { host: 'api.example.com' } });
  expect([status, headers.get('location')]).toEqual([308, 'https://api.example.com/entry?a=b']);
});

test('the authority reads the answers of certbot without TLS', async () => {
  const folder = join(front.directory, '.well-known/acme-challenge');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'token'), 'answer');
  const url = `http://127.0.0.1:${front.redirectPort}`;
  expect(await send(url, { path: '/.well-known/acme-challenge/token' })).toMatchObject({ status: 200, body: 'answer' });
});

test.each<[SecureVersion, boolean]>([
  ['TLSv1.1', false],
  ['TLSv1.2', true],
  ['TLSv1.3', true],
])('a connection with %s is accepted: %s', async (version, isAccepted) => {
  const versions = { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' };
  const socket = connectTls({ host: '127.0.0.1', port: front.tlsPort, rejectUnauthorized: false, ...versions });
  const accepted = await once(socket, 'secureConnect').then(
    () => true,
    () => false,
  );
  socket.destroy();
  expect(accepted).toBe(isAccepted);
});

test('the console has its own name, for operators only, and browsers never leave HTTPS', async () => {
  const headers = { host: 'console.example.com' };
  const options = { headers, servername: 'console.example.com', rejectUnauthorized: false };
  expect(await sendTls(front, options)).toMatchObject({ status: 403 });
  const { status, headers: answered, body } = await sendTls(lonelyFront, options);
  expect([status, answered['strict-transport-security']]).toEqual([200, 'max-age=31536000']);
  expect(JSON.parse(body)).toMatchObject({ ...headers, 'x-forwarded-for': '127.0.0.1', 'x-forwarded-proto': 'https' });
});

test('no log of nginx contains what a partner sends', async () => {
  await sendTls(front, {
    path: '/entry/c-4711?c-4711',
    headers: { 'x-api-key': 'opm_c-4711' },
    rejectUnauthorized: false,
  });
  const answered = /^127\.0\.0\.1 \S+ GET \d{3} [\d.]+ 127\.0\.0\.1:\d+ \S+$/m;
  const log = join(front.directory, 'nginx/opm.log');
  await waitFor(async () => answered.test(await readFile(log, 'utf8')), { description: 'the line' });
  for (const file of [log, join(front.directory, 'nginx/error.log')]) {
    expect(await readFile(file, 'utf8')).not.toContain('c-4711');
  }
});

test.each(['/ping', '/opm-answer'])('the answer to %s over TLS keeps browsers on HTTPS', async (path) => {
  const { headers } = await sendTls(front, { path, rejectUnauthorized: false });
  expect(headers['strict-transport-security']).toBe('max-age=31536000');
});

test('a renewed certificate is served after a reload, and no request fails meanwhile', async () => {
  const renewed = await createCertificates(await mkdtemp(join(front.directory, 'renewed-')));
  const ca = await Promise.all([front.certificates.ca, renewed.ca].map((file) => readFile(file)));
  const answers: { status: number | undefined; certificate: string }[] = [];
  let isOver = false;
  const partners = Array.from({ length: 4 }, async (_partner, n) => {
    const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
    const options = { method: 'POST', path: '/entry', headers, ca };
    for (let i = 0; !isOver; i++)
      answers.push(await sendTls(front, options, `{"customerId":"tls ${n} ${i}","customerPhone":"1"}`));
  });
  const goOn = async (served: () => boolean) => {
    const due = answers.length + 50;
    await Promise.race([waitFor(() => served() && answers.length >= due, { description: 'answers' }), ...partners]);
  };
  await goOn(() => true);
  const [first] = answers;
  for (const part of ['cert', 'key'] as const) await rename(renewed[part], front.certificates[part]);
  front.reload();
  await goOn(() => answers.at(-1)?.certificate !== first?.certificate);
  isOver = true;
  await Promise.all(partners);
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201]));
  expect(new Set(answers.map(({ certificate }) => certificate)).size).toBe(2);
});
