import { createRequire } from 'node:module';
import fc from 'fast-check';
import { PROPERTIES } from './to-row.js';

/** https://github.com/minimaxir/big-list-of-naughty-strings */
export const NAUGHTY_STRINGS = [...new Set<string>(createRequire(import.meta.url)('big-list-of-naughty-strings'))];

const KIB_16 = 16 * 1024;

/** Pads a JSON object to a size, with a property that the ingress ignores. */
export function pad(body: string, bytes: number): string {
  const open = `${body.slice(0, -1)},"padding":"`;
  return `${open}${'x'.repeat(Math.max(bytes - Buffer.byteLength(open) - 2, 0))}"}`;
}

const NUMBERS = [
  '0',
  '-0',
  '7519',
  '1.0',
  '1e3',
  '0.1',
  '1e400',
  '-1e400',
  '1e-400',
  '9007199254740991',
  '9007199254740992',
];
const INVALID_NUMBERS = ['00', '+1', '.5', '1.', '0x10', 'NaN', 'Infinity', '-', '1e'];

/** Any UTF-16, including unpaired surrogates. */
const utf16 = fc.array(fc.nat(0xffff)).map((units) => String.fromCharCode(...units));
export const text = fc.oneof(
  fc.constantFrom(...NAUGHTY_STRINGS),
  fc.string({ unit: 'binary' }),
  utf16,
  fc.constantFrom('', '\0', '\ud800', '\udc00a', '__proto__', '{"a":1}'),
  // Characters that a program might trim, fold or normalise.
  fc.constantFrom(' a\t', '\r\na', '\u00a0a', '\ufeffa', 'e\u0301', '\u212b', 'ﬁ', 'İ', 'ß', '\u202ea', 'a\u200d'),
  // Lengths around the limits, with characters of one, two and four bytes.
  fc
    .tuple(fc.constantFrom('a', 'ä', '😀'), fc.constantFrom(64, 255, 320), fc.integer({ min: -1, max: 1 }))
    .map(([character, length, more]) => character.repeat(length + more)),
);

const escapeAll = (value: string) =>
  `"${Array.from({ length: value.length }, (_, i) => `\\u${value.charCodeAt(i).toString(16).padStart(4, '0')}`).join('')}"`;

const value = fc.oneof(
  { weight: 8, arbitrary: text.map((string) => JSON.stringify(string)) },
  { weight: 2, arbitrary: text.map(escapeAll) },
  { weight: 2, arbitrary: fc.constantFrom(...NUMBERS, ...INVALID_NUMBERS, 'null', 'true', '[]', '{}') },
  { weight: 1, arbitrary: fc.json() },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 8_000 }).map((depth) => '['.repeat(depth) + ']'.repeat(depth)) },
);
const property = fc.tuple(fc.constantFrom(...PROPERTIES, '__proto__', 'constructor', 'toString', 'other'), value);

/** Usually an entry; keys may repeat. */
const object = fc
  .tuple(text, fc.array(property, { maxLength: 8 }), fc.constantFrom('', ' ', '\t\r\n'))
  .map(([customerId, properties, space]) => {
    const first: [string, string][] = [
      ['customerId', JSON.stringify(customerId)],
      ['customerPhone', '"1"'],
    ];
    const members = [...first, ...properties].map(([key, json]) => `${space}${JSON.stringify(key)}${space}:${json}`);
    return `{${members.join(',')}${space}}`;
  });

/** Bodies: an entry or something similar, some with changed bytes. */
export const body: fc.Arbitrary<Buffer> = fc.oneof(
  { weight: 6, arbitrary: object.map((json) => Buffer.from(json)) },
  { weight: 1, arbitrary: fc.json().map((json) => Buffer.from(json)) },
  { weight: 1, arbitrary: fc.uint8Array().map((bytes) => Buffer.from(bytes)) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(object, fc.integer({ min: -1, max: 1 }))
      .map(([json, more]) => Buffer.from(pad(json, KIB_16 + more))),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(object, fc.nat(), fc.uint8Array({ maxLength: 4 }), fc.nat(3))
      .map(([json, at, bytes, removed]) => {
        const whole = Buffer.from(json);
        const start = at % (whole.length + 1);
        return Buffer.concat([whole.subarray(0, start), bytes, whole.subarray(start + removed)]);
      }),
  },
);
