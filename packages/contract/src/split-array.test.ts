import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Fault } from './faults.js';
import { parseJson } from './parse-json.js';
import { parseValues, splitArray } from './split-array.js';

const RUNS = { numRuns: 1_000 };

/** null stands for a value that is too long. @returns undefined where it is refused */
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
    const value = parseJson(body);
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

test('read in groups of any size, an array has the values that it has read whole, and is refused where it is refused whole', () => {
  fc.assert(
    fc.property(body, fc.integer({ min: 1, max: 60 }), (bytes, spare) => {
      // So much that no value is too long.
      expect(parseInGroups(bytes, bytes.length + spare)).toEqual(parseWhole(bytes));
    }),
    RUNS,
  );
});

test('a value that is too long is none that is parsed, and changes none of the others', () => {
  fc.assert(
    fc.property(
      fc.array(fc.jsonValue(), { maxLength: 8 }),
      fc.integer({ min: 1, max: 60 }),
      fc.nat(2),
      (values, maxBytes, indent) => {
        const compact = values.map((value) => JSON.stringify(value));
        const body = Buffer.from(`[${compact.join(`,${' '.repeat(indent)}`)}]`);
        const expected = compact.map((text) => (Buffer.byteLength(text) > maxBytes ? 'too long' : JSON.parse(text)));
        expect(parseInGroups(body, maxBytes)).toEqual(expected);
      },
    ),
    RUNS,
  );
});

describe('no array is', () => {
  test.each([
    ['a value behind it', '[1]1'],
    ['another one', '[1],[2]'],
    ['a bracket of another kind', '[1}'],
    ['a comma at its end', '[1,]'],
    ['a comma alone', '[,]'],
    ['nothing between two commas', '[1,,2]'],
    ['one that does not end', '[[1]'],
    ['a text that does not end', '["]'],
    ['two values without a comma', '[1 2]'],
    ['invalid UTF-8', Buffer.from([0x5b, 0x22, 0xff, 0x22, 0x5d])],
  ])('%s', (_, text) => {
    expect(parseInGroups(Buffer.from(text as string), 100)).toBeUndefined();
  });
});

test('many values are counted before they are parsed, and a long one leaves room for others', () => {
  const many = Buffer.from(`[${'{},'.repeat(300_000)}{}]`);
  const first = splitArray(many, 16_384).next().value;
  expect(first?.sizes.length).toBe(5_461);
  const long = Buffer.from(`["${'x'.repeat(1_000_000)}"]`);
  const steps = [...splitArray(long, 16_384)];
  expect(steps.filter((step) => step === undefined).length).toBeGreaterThan(10);
  expect(steps.at(-1)).toEqual({ bytes: null, sizes: [1_000_002] });
});
