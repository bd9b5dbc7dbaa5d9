import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createBackend } from '@opm/testkit';
import fc from 'fast-check';
import { NAUGHTY_STRINGS } from './bodies.js';
import { toEntryRequest, toRequest } from './requests.js';
import { explore } from './runs.js';
import { type Project, Stack } from './stack.js';

let stack: Stack;
let project: Project;
beforeAll(async () => {
  stack = await Stack.start(await createBackend(process.env.OPM_TEST_REDIS_URL));
  project = await stack.createProject();
});
afterAll(async () => {
  await stack.expectUnharmed();
  await stack.stop();
});

/** Pings with these headers; returns the only answer. */
async function ping(headers: string[]) {
  const [answer, ...others] = await stack.talk([toRequest('GET /ping', headers)], { answers: 1 });
  expect(others).toEqual([]);
  return answer;
}

const toLatin1 = (text: string) => Buffer.from(text).toString('latin1');
const naughtyHeaders = NAUGHTY_STRINGS.map(toLatin1).filter((text) => !/[\r\n\0]/.test(text));

describe('a key', () => {
  const KIB = 1024;
  test.each<[how: string, toHeaders: (apiKey: string) => string[], status: number]>([
    ['is accepted with any case of its name and with spaces around it', (key) => [`X-API-KEY: \t ${key} \t`], 200],
    ['that is missing', () => [], 401],
    ['that is empty', () => ['x-api-key:'], 401],
    ['that is only spaces', () => ['x-api-key:    '], 401],
    ['that is sent twice', (key) => [`x-api-key: ${key}`, `x-api-key: ${key}`], 401],
    ['with an empty second one', (key) => [`x-api-key: ${key}`, 'x-api-key:'], 401],
    ['in quotes', (key) => [`x-api-key: "${key}"`], 401],
    ['of 8 KiB', () => [`x-api-key: ${'a'.repeat(8 * KIB)}`], 401],
    ['of 8 KiB that begins with a valid one', (key) => [`x-api-key: ${key.padEnd(8 * KIB, 'a')}`], 401],
    ['of 16 KiB', () => [`x-api-key: ${'a'.repeat(16 * KIB)}`], 431],
    ['that is not ASCII', () => ['x-api-key: \xfc\xff\x80'], 401],
    ['followed by a byte that is not ASCII', (key) => [`x-api-key: ${key}\xa0`], 401],
    ['followed by NUL', (key) => [`x-api-key: ${key}\0`], 400],
    ['followed by DEL', (key) => [`x-api-key: ${key}\x7f`], 400],
    ['with a space after its name', (key) => [`x-api-key : ${key}`], 400],
    ['whose name is not ASCII', (key) => [`x-api-k\xe9y: ${key}`], 400],
    ['under another name', (key) => [`x_api_key: ${key}`, `api-key: ${key}`, `authorization: Bearer ${key}`], 401],
    // In addition to `host`, which every request has.
    ['after 98 other headers', (key) => [...Array(98).fill('a:'), `x-api-key: ${key}`], 200],
    ['after 99 other headers', (key) => [...Array(99).fill('a:'), `x-api-key: ${key}`], 431],
    ['after 2,000 other headers', (key) => [...Array(2_000).fill('a:'), `x-api-key: ${key}`], 431],
  ])('%s', async (_, toHeaders, status) => {
    expect((await ping(toHeaders(project.apiKey)))?.status).toBe(status);
  });

  test('that is a naughty string is never accepted', async () => {
    for (const text of naughtyHeaders) {
      expect([400, 401]).toContain((await ping([`x-api-key: ${text}`]))?.status);
    }
  });
});

test('no header is dropped: a request with more than 100 is refused, whatever the last one is', async () => {
  const partner = await stack.createProject();
  for (const others of [0, 97, 98, 200, 1_000, 2_100]) {
    const headers = [...Array(others).fill('a:'), 'idempotency-key: same'];
    const [answer] = await stack.talk([toEntryRequest(partner.apiKey, 'a', headers)], { answers: 1 });
    // `host`, `x-api-key` and `content-length` are added.
    expect([others, answer?.status]).toEqual([others, others + 4 > 100 ? 431 : 201]);
    if (answer?.status === 201) expect(answer.headers.has('idempotent-replayed')).toBe(others > 0);
  }
});

test.each<[host: string, request: string, status: number]>([
  ['no host', 'GET /ping HTTP/1.1\r\n', 400],
  ['two hosts', 'GET /ping HTTP/1.1\r\nhost: a\r\nHost: b\r\n', 400],
  ['the same host twice', 'GET /ping HTTP/1.1\r\nhost: a\r\nhost: a\r\n', 400],
  ['two hosts, in HTTP/1.0', 'GET /ping HTTP/1.0\r\nhost: a\r\nhost: b\r\n', 400],
  ['a host only in its target', 'GET http://a/ping HTTP/1.1\r\n', 400],
  ['an empty host', 'GET /ping HTTP/1.1\r\nhost:\r\n', 200],
  ['one host', 'GET /ping HTTP/1.1\r\nHOST: a\r\n', 200],
  ['no host, in HTTP/1.0', 'GET /ping HTTP/1.0\r\n', 200],
])('a request with %s is answered as HTTP requires', async (_, request, status) => {
  const [answer, ...others] = await stack.talk([`${request}x-api-key: ${project.apiKey}\r\n\r\n`], { answers: 1 });
  expect([answer?.status, others]).toEqual([status, []]);
  if (status === 400) expect(JSON.parse(answer?.text ?? '').message).toBe('request must be valid HTTP');
});

test('an entry without a host is refused, and so is everything after it on the connection', async () => {
  const partner = await stack.createProject();
  const [first, second] = ['a', 'b'].map((id) => toEntryRequest(partner.apiKey, id));
  const answers = await stack.talk([`${first?.replace('host: test\r\n', '')}${second}`]);
  expect(answers.map(({ status }) => status)).toEqual([400]);
  expect(await stack.readRows(partner)).toEqual(new Map());
});

test('a request id that is a naughty string is returned unchanged or replaced', async () => {
  for (const text of naughtyHeaders) {
    const answer = await ping([`x-api-key: ${project.apiKey}`, `x-request-id: ${text}`]);
    if (answer?.status === 400) continue; // Control characters are not valid in HTTP headers.
    expect(answer?.status).toBe(200);
    if (answer?.requestId !== text.trim())
      expect(answer?.requestId).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  }
});

const KNOWN = [
  'x-api-key',
  'x-request-id',
  'content-type',
  'content-encoding',
  'host',
  'expect',
  'connection',
  'upgrade',
];
const OTHERS = [
  'accept',
  'cookie',
  'x-forwarded-for',
  'x-http-method-override',
  'range',
  'if-none-match',
  'te',
  'trailer',
];
const byte = fc.integer({ min: 0x20, max: 0xff }).filter((code) => code !== 0x7f);
const latin1 = fc.array(byte, { maxLength: 40 }).map((codes) => String.fromCharCode(...codes));
const header = fc
  .tuple(
    fc.oneof(fc.constantFrom(...KNOWN, ...OTHERS), fc.stringMatching(/^[\w!#$%&'*+.^`|~-]{1,20}$/)),
    fc.oneof(
      latin1,
      fc.constantFrom(...naughtyHeaders),
      fc.constantFrom('close', 'keep-alive', 'upgrade', 'h2c', '100-continue', 'gzip', 'multipart/x'),
    ),
    fc.constantFrom(1, 1, 1, 200),
  )
  .map(([name, value, times]) => `${name}: ${value.repeat(times)}`)
  .filter((line) => !/^(content-length|transfer-encoding):/i.test(line));
const target = fc.oneof(
  fc.constantFrom(
    '/ping',
    '/entry',
    '/',
    '*',
    '//',
    '/%',
    '/..',
    '/entry/',
    '/PING?',
    'http://[',
    'http://u:%@h/ping',
    'http://h',
    'foo://h',
    'mailto:a@h',
  ),
  fc.stringMatching(/^\/[!-~]{0,30}$/),
  fc.stringMatching(/^(https?|foo):\/\/[!-~]{0,30}$/),
);
const method = fc.constantFrom(
  'GET',
  'POST',
  'PUT',
  'DELETE',
  'PATCH',
  'OPTIONS',
  'TRACE',
  'QUERY',
  'PROPFIND',
  'GOT',
  'get',
);

test('whatever the method, target and headers, the answer is documented, and only the key gives access', async () => {
  const property = fc.asyncProperty(
    fc.array(fc.tuple(method, target, fc.array(header, { maxLength: 8 }), fc.boolean()), { maxLength: 20 }),
    async (requests) => {
      const exchanges = requests.map(async ([verb, path, headers, withKey]) => {
        const all = withKey ? [`x-api-key: ${project.apiKey}`, ...headers] : headers;
        const [answer] = await stack.talk([toRequest(`${verb} ${path}`, all)], { answers: 1 });
        const isLetIn = withKey && !headers.some((line) => /^x-api-key:/i.test(line));
        if (answer && !isLetIn) expect(answer.status).toBeGreaterThanOrEqual(400);
      });
      await Promise.all(exchanges);
    },
  );
  await explore(property);
  expect(await stack.readRows(project)).toEqual(new Map());
});
