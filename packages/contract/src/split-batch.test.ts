import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseJson } from './entry.js';
import { Fault } from './faults.js';
import { emptyNested } from './nested-json.js';
import { LineSplitter, parseValues, splitArray } from './split-batch.js';

const MAX_BYTES = 20;
const RUNS = { numRuns: 2_000 };

const text = fc.array(fc.constantFrom('\n', '\n', '\n', '\r', ' ', '\t', 'a', '{}', '"ä"', 'x'.repeat(15)));
const toBytes = (texts: string[]) => Buffer.from(texts.join(''));

/** A second implementation: splits the whole body at its line ends. */
function splitWhole(body: Buffer): [number, string | null][] {
  return body
    .toString('latin1')
    .split('\n')
    .map((line, i): [number, string | null] => [i + 1, line])
    .filter(([, line]) => /[^ \t\r]/.test(line ?? ''))
    .map(([number, line]) => [
      number,
      (line as string).length > MAX_BYTES ? null : (line as string).replace(/^[ \t\r]+/, ''),
    ]);
}

function splitInParts(body: Buffer, cuts: number[]): [number, string | null][] {
  const places = [...new Set(cuts.map((cut) => cut % (body.length + 1)))].sort((a, b) => a - b);
  const parts = [0, ...places].map((start, i) => body.subarray(start, places[i] ?? body.length));
  const splitter = new LineSplitter(MAX_BYTES);
  const lines = [...parts.flatMap((part) => [...splitter.split(part)]), ...splitter.end()];
  return lines.map(({ number, bytes }) => [number, bytes?.toString('latin1') ?? null]);
}

test('lines that are not blank are found with their numbers, wherever the body is cut into parts', () => {
  fc.assert(
    fc.property(text.map(toBytes), fc.array(fc.nat()), (body, cuts) => {
      expect(splitInParts(body, cuts)).toEqual(splitWhole(body));
    }),
    RUNS,
  );
});

test('any number of blank lines are skipped, and their bytes are counted', () => {
  const splitter = new LineSplitter(MAX_BYTES);
  const blank = Buffer.from('\n\r\n \t\n'.repeat(10_000));
  expect([...splitter.split(blank), ...splitter.split(Buffer.from('{}\n')), ...splitter.split(blank)]).toEqual([
    { number: 30_001, size: 2, bytes: Buffer.from('{}') },
  ]);
  expect(splitter.end()).toEqual([]);
  expect(splitter.blankBytes).toBe(2 * blank.length);
});

const ARRAY_RUNS = { numRuns: 1_000 };

/** Values nested deeper may or may not come back empty, see `parseJson`. */
function withEmptyNested(values: unknown[] | undefined): unknown[] | undefined {
  return values && JSON.parse(emptyNested(Buffer.from(JSON.stringify(values)), 2).toString());
}

/** 'too long' stands for a value over the limit. @returns undefined if the body is rejected */
function parseInGroups(body: Buffer, maxBytes: number): unknown[] | undefined {
  try {
    return [...splitArray(body, maxBytes)].flatMap((group) => {
      if (!group) return [];
      const { bytes, sizes } = group;
      expect(bytes?.length ?? 0).toBeLessThanOrEqual(maxBytes);
      return bytes ? parseValues({ bytes, sizes }) : ['too long'];
    });
  } catch (error) {
    if (error instanceof Fault) return undefined;
    throw error;
  }
}

function parseWhole(body: Buffer): unknown[] | undefined {
  try {
    const value = parseJson(body, 2);
    return Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

const token = fc.constantFrom(
  ...'[]{},:" \\',
  '\n',
  '[]',
  '{}',
  '"a":',
  '"]"',
  '"\\""',
  '"\\\\"',
  '1',
  'null',
  'ä',
  '\x00',
);
const soup = fc.array(token, { maxLength: 12 }).map((tokens) => tokens.join(''));
const json = fc
  .tuple(fc.array(fc.jsonValue(), { maxLength: 8 }), fc.constantFrom(0, 1, 2))
  .map(([value, indent]) => JSON.stringify(value, null, indent));
const broken = fc.tuple(json, fc.nat(), fc.nat(3), soup).map(([text, at, removed, added]) => {
  const start = at % (text.length + 1);
  return text.slice(0, start) + added + text.slice(start + removed);
});
const body = fc
  .oneof(
    soup,
    soup.map((inner) => `[${inner}]`),
    json,
    broken,
  )
  .map((text) => Buffer.from(text));

test('an array read in groups of any size has the same values, or is rejected the same, as one read whole', () => {
  fc.assert(
    fc.property(body, fc.integer({ min: 1, max: 60 }), (bytes, spare) => {
      // The limit is above the body's size, so no value is too long.
      const values = parseInGroups(bytes, bytes.length + spare);
      expect(withEmptyNested(values)).toEqual(withEmptyNested(parseWhole(bytes)));
    }),
    ARRAY_RUNS,
  );
});

test('a value that is too long is not parsed and does not affect the others', () => {
  fc.assert(
    fc.property(
      fc.array(fc.jsonValue(), { maxLength: 8 }),
      fc.integer({ min: 1, max: 60 }),
      fc.nat(2),
      (values, maxBytes, indent) => {
        const compact = values.map((value) => JSON.stringify(value));
        const body = Buffer.from(`[${compact.join(`,${' '.repeat(indent)}`)}]`);
        const expected = compact.map((text) => (Buffer.byteLength(text) > maxBytes ? 'too long' : JSON.parse(text)));
        expect(withEmptyNested(parseInGroups(body, maxBytes))).toEqual(withEmptyNested(expected));
      },
    ),
    ARRAY_RUNS,
  );
});

describe('rejected as an array:', () => {
  test.each([
    ['a value after it', '[1]1'],
    ['a second array', '[1],[2]'],
    ['the wrong closing bracket', '[1}'],
    ['a comma at its end', '[1,]'],
    ['only a comma', '[,]'],
    ['nothing between two commas', '[1,,2]'],
    ['an array that does not end', '[[1]'],
    ['a string that does not end', '["]'],
    ['two values without a comma', '[1 2]'],
    ['invalid UTF-8', Buffer.from([0x5b, 0x22, 0xff, 0x22, 0x5d])],
  ])('%s', (_, text) => {
    expect(parseInGroups(Buffer.from(text as string), 100)).toBeUndefined();
  });
});

test('values are counted before they are parsed, and a long value yields to other work', () => {
  const many = Buffer.from(`[${'{},'.repeat(300_000)}{}]`);
  const first = splitArray(many, 16_384).next().value;
  expect(first?.sizes.length).toBe(5_461);
  const long = Buffer.from(`["${'x'.repeat(1_000_000)}"]`);
  const steps = [...splitArray(long, 16_384)];
  expect(steps.filter((step) => step === undefined).length).toBeGreaterThan(10);
  expect(steps.at(-1)).toEqual({ bytes: null, sizes: [1_000_002] });
});
