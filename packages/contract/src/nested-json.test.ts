import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseJson } from './entry.js';
import { Fault } from './faults.js';
import { emptyNested } from './nested-json.js';

/** JSON in all its spellings: blanks, escapes, numbers, and values that `JSON.stringify` never writes. */
const json = fc.letrec<{ value: string; text: string }>((tie) => ({
  text: fc.oneof(
    fc.string({ unit: 'binary' }).map((text) => JSON.stringify(text)),
    fc.constantFrom('"\\u00e4\\/\\b\\"\\\\"', '"[{,:}]"', '"\u007f\u2028"', '"\\uD800"', '""'),
  ),
  value: fc.oneof(
    { depthSize: 'medium', withCrossShrink: true },
    fc.oneof(tie('text'), fc.constantFrom('0', '-0', '-12.50e+10', '1E5', '1e400', 'true', 'false', 'null')),
    fc.array(tie('value'), { maxLength: 4 }).map((values) => `[ ${values.join(' ,\n')}\t]`),
    fc
      .array(fc.tuple(tie('text'), tie('value')), { maxLength: 4 })
      .map((pairs) => `{${pairs.map((pair) => pair.join('\r: ')).join(' , ')} }`),
  ),
})).value;

/** Inserted or put in place of what is there, these make JSON invalid, or something else. */
const piece = fc.constantFrom(
  ...'[]{},:"\\ \n0123-+.eEu/ntf\u0001\u00e4'.split(''),
  '[[',
  ']]',
  '[]',
  '{}',
  'null',
  '"a":',
);
const edit = fc.record({ place: fc.nat(), removed: fc.nat({ max: 3 }), piece: fc.oneof(piece, fc.constant('')) });

const edited = fc.tuple(json, fc.array(edit, { maxLength: 3 })).map(([text, edits]) =>
  edits.reduce((before, { place, removed, piece }) => {
    const at = place % (before.length + 1);
    return before.slice(0, at) + piece + before.slice(at + removed);
  }, text),
);

function parse(text: string): { value?: unknown } {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return {};
  }
}

function toShallow(value: unknown, depth: number): unknown {
  if (!(value instanceof Object)) return value;
  if (depth === 0) return Array.isArray(value) ? [] : {};
  if (Array.isArray(value)) return value.map((element) => toShallow(element, depth - 1));
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, toShallow(inner, depth - 1)]));
}

test('of any text, the emptied copy parses if and only if the text does, to the same value with empty nested ones', () => {
  fc.assert(
    fc.property(edited, fc.nat({ max: 2 }), (text, depth) => {
      const body = Buffer.from(text);
      const { value } = parse(body.toString());
      const emptied = () => JSON.parse(emptyNested(body, depth).toString());
      if (value === undefined) expect(emptied).toThrow(SyntaxError);
      else expect(emptied()).toEqual(toShallow(value, depth));
      expect(body.toString()).toBe(Buffer.from(text).toString());
    }),
    { numRuns: 5_000 },
  );
});

test('a property that no entry has may hold arrays of any depth', () => {
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);
  expect(parseJson(Buffer.from(`{"customerId":"a","other":${deep}}`))).toEqual({ customerId: 'a', other: [] });
  expect(() => parseJson(Buffer.from(`{"customerId":"a","other":${deep.slice(1)}}`))).toThrow(Fault);
});
