import { expect, test } from '@jest/globals';
import { parseMoment } from './parse.js';

test.each([
  ['2026-11-24', new Date(2026, 10, 24)],
  ['2024-02-29', new Date(2024, 1, 29)],
  ['2026-11-24T18:00', new Date(2026, 10, 24, 18)],
  ['2026-11-24 18:00:01.5', new Date(2026, 10, 24, 18, 0, 1, 500)],
  ['2026-11-24T18:00Z', new Date(Date.UTC(2026, 10, 24, 18))],
  ['2026-11-24T18:00+09:00', new Date(Date.UTC(2026, 10, 24, 9))],
])('a time without a zone is local, and a day means its first moment: %s', (text, moment) => {
  expect(parseMoment(text)(new Date(0))).toEqual(moment);
});

test('an age counts from the given moment, not from the clock of this machine', () => {
  expect(parseMoment('90m')(new Date('2026-11-24T18:00Z'))).toEqual(new Date('2026-11-24T16:30Z'));
});

test.each([
  '2026-02-30',
  '2026-13-01',
  '2026-11-24T25:00',
  '2026-11-24 (x',
  '2026-11-24T',
  '24.11.2026',
  '1764000000',
  '',
])('a text that is not a time is refused: %j', (text) => {
  expect(() => parseMoment(text)).toThrow('It must be a time such as 2026-11-24T18:00Z');
});
