import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { LineSplitter } from './split-lines.js';

const MAX_BYTES = 20;
const RUNS = { numRuns: 2_000 };

const text = fc.array(fc.constantFrom('\n', '\n', '\n', '\r', ' ', '\t', 'a', '{}', '"ä"', 'x'.repeat(15)));
const toBytes = (texts: string[]) => Buffer.from(texts.join(''));

/** In words of its own: whole, by what is between line ends. */
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

test('lines are those between the line ends, but for blank ones, with their numbers, however they are cut on their way', () => {
  fc.assert(
    fc.property(text.map(toBytes), fc.array(fc.nat()), (body, cuts) => {
      expect(splitInParts(body, cuts)).toEqual(splitWhole(body));
    }),
    RUNS,
  );
});

test('of blank lines nothing is given out, however many there are, and their bytes are counted', () => {
  const splitter = new LineSplitter(MAX_BYTES);
  const blank = Buffer.from('\n\r\n \t\n'.repeat(10_000));
  expect([...splitter.split(blank), ...splitter.split(Buffer.from('{}\n')), ...splitter.split(blank)]).toEqual([
    { number: 30_001, size: 2, bytes: Buffer.from('{}') },
  ]);
  expect(splitter.end()).toEqual([]);
  expect(splitter.blankBytes).toBe(2 * blank.length);
});
