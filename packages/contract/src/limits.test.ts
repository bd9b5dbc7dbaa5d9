import { describe, expect, test } from '@jest/globals';
import { parseIdempotencyKey } from './entry.js';

describe('an idempotency key:', () => {
  test.each([
    ['8e03978e-40d5-43e8-bc93-6894a57f9324', '8e03978e-40d5-43e8-bc93-6894a57f9324'],
    ['"8e03978e-40d5-43e8-bc93-6894a57f9324"', '8e03978e-40d5-43e8-bc93-6894a57f9324'],
    [String.raw`"a\"b\\c"`, String.raw`a"b\c`],
    [String.raw`a"b\c`, String.raw`a"b\c`],
    ['"', undefined],
    ['""', undefined],
    ['', undefined],
    ['~', '~'],
    ['!', '!'],
    ['k'.repeat(255), 'k'.repeat(255)],
    [`"${'k'.repeat(255)}"`, 'k'.repeat(255)],
    ['k'.repeat(256), undefined],
    [`"${'k'.repeat(256)}"`, undefined],
    ['a b', undefined],
    ['"a b"', undefined],
    ['"a"; q=1', undefined],
    ['"a", "b"', undefined],
    ['"a","b"', undefined],
    [String.raw`"a\b"`, undefined],
    [String.raw`"a\"`, undefined],
    ['"a', undefined],
    ['é', undefined],
    ['a\tb', undefined],
    ['a\x7f', undefined],
  ])('%j is read as %j', (value, key) => {
    const read = () => parseIdempotencyKey([value]);
    if (key === undefined) expect(read).toThrow('idempotency key must have 1 to 255 visible ASCII characters');
    else expect(read()).toBe(key);
  });

  test('must be given once; even two equal ones are rejected', () => {
    expect(() => parseIdempotencyKey(['a', 'a'])).toThrow('idempotency key must be given once');
  });
});
