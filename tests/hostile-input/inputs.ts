import { deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { body, text } from './bodies.js';
import type { Wire } from './connections.js';
import { toRequest } from './requests.js';

/** A request to any route. Strings are latin1: one character is one byte. */
export type Input = {
  method: string;
  path: string;
  headers: string[];
  body: string;
  /** How the body is compressed. */
  coding: keyof typeof COMPRESS | undefined;
  hasKey: boolean;
  isChunked: boolean;
  /** Where the request is split into two pieces, modulo its length; 0 for one piece. */
  cut: number;
};

const COMPRESS = {
  gzip: (bytes: Buffer) => gzipSync(bytes),
  'X-GZIP': (bytes: Buffer) => Buffer.concat([gzipSync(bytes.subarray(0, 9)), gzipSync(bytes.subarray(9))]),
  deflate: (bytes: Buffer) => deflateSync(bytes),
  'gzip bomb': (bytes: Buffer) => gzipSync(Buffer.concat([bytes, BLANK])),
};
const BLANK = Buffer.alloc(2 * 1024 * 1024, ' ');

/** Few enough for most customers to appear more than once in a run. */
const IDS = Array.from({ length: 100 }, (_, i) => `customer-${i}`);
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
const PATHS = [
  ...[
    '/entry',
    '/entries',
    '/entries/receipts',
    '/entry/a',
    '/ping',
    '/docs',
    '/docs/nowhere.js',
    '/openapi.json',
    '/nowhere',
    '/',
  ],
  ...['/entry/', '/ENTRY', '//entry', '/entry/%', '/entry/%ff', '/entry/a/b', 'http://test/entry', '*'],
];
/**
 * These routes serve the OpenAPI document, which does not describe them. A large answer of theirs ends the connection.
 */
export const DESCRIPTION = /^\/(docs|openapi\.json)/;
const HEADERS = [
  ...['content-encoding: gzip', 'content-encoding: identity', 'expect: 100-continue', 'expect: nothing'],
  ...[
    'connection: close',
    'connection: upgrade\r\nupgrade: h2c',
    'te: trailers',
    'host: another',
    'x-api-key: another',
  ],
  ...['accept: text/html', 'accept-encoding: gzip', 'if-none-match: *', 'range: bytes=0-1', 'cookie: a=b'],
  ...['x-http-method-override: DELETE', 'x-forwarded-for: 10.0.0.1'],
];
const TYPES = ['application/json', 'application/x-ndjson', 'text/plain', 'multipart/x', 'nonsense'];
const REQUEST_IDS = ['a', 'sane-id_1', 'not sane', '\xe9'];

const toLatin1 = (bytes: string | Buffer) => Buffer.from(bytes as string).toString('latin1');
const toPath = (customerId: string) => `/entry/${toLatin1(customerId).replaceAll(/[^\w.~-]/g, encode)}`;
const encode = (character: string) => `%${character.charCodeAt(0).toString(16).padStart(2, '0')}`;

/** `usual`, but in one of `times` draws `other`. */
const rarely = <T>(times: number, usual: T, other: fc.Arbitrary<T>) =>
  fc.oneof({ weight: times - 1, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: other });

const id = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...IDS) }, { weight: 1, arbitrary: text });
const entry = fc
  .record({ customerId: id, customerEmail: text, customerPhone: text }, { requiredKeys: ['customerId'] })
  .map((value) => toLatin1(JSON.stringify(value)));
const single = fc.oneof({ weight: 3, arbitrary: entry }, { weight: 2, arbitrary: body.map(toLatin1) });
const batch = fc
  .tuple(fc.array(single, { maxLength: 6 }), fc.boolean())
  .map(([entries, isArray]) => (isArray ? `[${entries.join(',')}]` : entries.map((line) => `${line}\n`).join('')));
const nothing = fc.constant('');
const anything = fc.oneof(nothing, single, batch);

const header = fc.oneof(
  fc.constantFrom(...HEADERS),
  fc.constantFrom(...TYPES).map((type) => `content-type: ${type}`),
  fc.constantFrom(...REQUEST_IDS).map((value) => `x-request-id: ${value}`),
  fc.nat(100).map((key) => `idempotency-key: key-${key}`),
);

const CODINGS = Object.keys(COMPRESS) as (keyof typeof COMPRESS)[];

/** All routes, and unknown paths. The most complex routes have the highest weights. */
const target = fc.oneof(
  { weight: 10, arbitrary: fc.tuple(fc.constant('POST'), fc.constant('/entry'), single) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('POST'), fc.constant('/entries'), batch) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('DELETE'), id.map(toPath), fc.oneof(nothing, single)) },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom('GET', 'HEAD'), id.map(toPath), nothing) },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...METHODS), fc.constantFrom(...PATHS), anything) },
);

export const input: fc.Arbitrary<Input> = fc
  .record({
    target,
    headers: fc.oneof(fc.constant<string[]>([]), fc.array(header, { maxLength: 3 })),
    coding: rarely<Input['coding']>(5, undefined, fc.constantFrom(...CODINGS)),
    hasKey: rarely(30, true, fc.constant(false)),
    isChunked: rarely(10, false, fc.constant(true)),
    cut: rarely(10, 0, fc.nat()),
  })
  .map(({ target: [method, path, content], ...others }) => ({ method, path, body: content, ...others }));

/** Headers that may end the connection with the answer, or add a 100 before it. */
const ENDING = /^(connection|expect|host):/;

/** Returns the bytes to send, in one piece or two. */
export function toWire(request: Input, { apiKey, suffix }: { apiKey: string; suffix: string }): Wire {
  const { method, path, headers, coding, hasKey, isChunked, cut } = request;
  const content = coding ? toLatin1(COMPRESS[coding](Buffer.from(request.body, 'latin1'))) : request.body;
  const encoding = coding ? [`content-encoding: ${coding.replace(' bomb', '')}`] : [];
  const key = hasKey ? [`x-api-key: ${apiKey}`] : [];
  const framing = isChunked ? 'transfer-encoding: chunked' : `content-length: ${content.length}`;
  const framed = isChunked ? toChunks(content) : content;
  const bytes = Buffer.from(
    toRequest(`${method} ${path}${suffix}`, [...key, ...encoding, framing, ...headers], framed),
    'latin1',
  );
  const place = cut % (bytes.length - suffix.length);
  return {
    pieces: place === 0 ? [bytes] : [bytes.subarray(0, place), bytes.subarray(place)],
    isHead: method === 'HEAD',
    needsOwnConnection: place > 0 || isChunked || headers.some((line) => ENDING.test(line)) || DESCRIPTION.test(path),
  };
}

function toChunks(content: string): string {
  const chunk = content === '' ? '' : `${content.length.toString(16)}\r\n${content}\r\n`;
  return `${chunk}0\r\n\r\n`;
}

/**
 * Returns the customers and idempotency keys of a request. Searches the body instead of parsing it, because a broken
 * batch has entries too.
 */
export function toSubjects({ path, headers, body: content }: Input): string[] {
  const given = Buffer.from(content, 'latin1').toString();
  const ids = Array.from(given.matchAll(CUSTOMER_ID), ([, json = '']) => attempt(() => JSON.parse(json)));
  if (path.startsWith('/entry/')) ids.push(attempt(() => decodeURIComponent(path.slice('/entry/'.length))));
  const keys = headers.filter((line) => line.startsWith('idempotency-key:'));
  return [...ids.filter((customerId) => customerId !== ''), ...keys];
}
const CUSTOMER_ID = /"customerId"\s*:\s*("(?:[^"\\]|\\.)*"|[^\s,}]+)/g;

/** Returns an id as text; an empty string if it cannot be parsed, because the request is then refused. */
function attempt(read: () => unknown): string {
  try {
    return String(read());
  } catch {
    return '';
  }
}
