import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseEntry } from './entry.js';
import { Fault } from './faults.js';

const given = { customerId: 7519, customerEmail: 'jane@example.com' };
const messageOf = (body: unknown): string => {
  try {
    parseEntry(body);
  } catch (error) {
    if (error instanceof Fault && error.code === 'BODY_INVALID') return error.message;
    throw error;
  }
  throw new Error('the body was accepted');
};

describe('an invalid body is rejected with a message that names the problem:', () => {
  const either = "body must have either required property 'customerEmail' or 'customerPhone'";
  const storable = 'must not contain U+0000 or unpaired surrogates';
  test.each<[string, unknown, string]>([
    ['an array', [], 'body must be object'],
    ['a string', 'x', 'body must be object'],
    ['null', null, 'body must be object'],
    ['no body', undefined, 'body must be object'],
    ['no customerId', { customerEmail: 'a' }, "body must have required property 'customerId'"],
    ['an empty object', {}, "body must have required property 'customerId'"],
    ['a null customerId', { ...given, customerId: null }, 'body/customerId must be string,integer'],
    ['an empty customerId', { ...given, customerId: '' }, 'body/customerId must NOT have fewer than 1 characters'],
    ['a fraction as customerId', { ...given, customerId: 1.5 }, 'body/customerId must be string,integer'],
    ['an infinite customerId', JSON.parse('{"customerId":1e400}'), 'body/customerId must be string,integer'],
    ['an unsafe customerId', { ...given, customerId: 2 ** 53 }, 'body/customerId must be <= 9007199254740991'],
    [
      'a long customerId',
      { ...given, customerId: 'x'.repeat(256) },
      'body/customerId must NOT have more than 255 characters',
    ],
    ['a number as email', { ...given, customerEmail: 1 }, 'body/customerEmail must be string'],
    ['a boolean as phone', { ...given, customerPhone: true }, 'body/customerPhone must be string'],
    ['an object as first name', { ...given, customerFirstName: {} }, 'body/customerFirstName must be string'],
    ['an array as last name', { ...given, customerLastName: [] }, 'body/customerLastName must be string'],
    ['a number as IP', { ...given, customerIP: 127 }, 'body/customerIP must be string'],
    [
      'a long email',
      { ...given, customerEmail: 'x'.repeat(321) },
      'body/customerEmail must NOT have more than 320 characters',
    ],
    [
      'a long phone',
      { ...given, customerPhone: 'x'.repeat(65) },
      'body/customerPhone must NOT have more than 64 characters',
    ],
    ['two wrong types', { customerId: 1, customerPhone: 1, customerEmail: 1 }, 'body/customerEmail must be string'],
    ['U+0000', { ...given, customerLastName: 'a\0b' }, `body/customerLastName ${storable}`],
    ['an unpaired surrogate', { ...given, customerFirstName: '\ud800' }, `body/customerFirstName ${storable}`],
    ['U+0000 in the id', { ...given, customerId: '\0' }, `body/customerId ${storable}`],
    ['neither email nor phone', { customerId: 1, customerFirstName: 'Jane' }, either],
    ['a null email and an empty phone', { customerId: 1, customerEmail: null, customerPhone: '' }, either],
    ['an inherited email', { customerId: 1, ...JSON.parse('{"__proto__":{"customerEmail":"a"}}') }, either],
  ])('%s', (_, body, message) => {
    expect(messageOf(body)).toBe(message);
  });
});

test('7519 and "7519" are the same customer', () => {
  expect(parseEntry({ ...given, customerId: '7519' })).toEqual(parseEntry(given));
  expect(parseEntry({ ...given, customerId: -0 }).customerId).toBe('0');
});

test('null and "" mean not given, and unknown properties are ignored', () => {
  expect(parseEntry({ ...given, customerPhone: null, customerLastName: '', other: { deep: [] } })).toEqual({
    customerId: '7519',
    fields: { email: 'jane@example.com' },
  });
});

test('lengths are counted in characters, not in UTF-16 code units', () => {
  const email = '😀'.repeat(320);
  expect(parseEntry({ ...given, customerEmail: email }).fields.email).toBe(email);
});

test('any JSON value is either an entry or a fault, and accepted values are kept unchanged', () => {
  const body = fc.oneof(
    fc.jsonValue(),
    fc.record(
      {
        customerId: fc.oneof(fc.string({ unit: 'binary' }), fc.maxSafeInteger()),
        customerEmail: fc.option(fc.string({ unit: 'binary', maxLength: 330 })),
        customerPhone: fc.option(fc.string({ unit: 'binary' })),
      },
      { requiredKeys: ['customerId'] },
    ),
  );
  fc.assert(
    fc.property(body, (value) => {
      try {
        const { customerId, fields } = parseEntry(value);
        const source = value as Record<string, unknown>;
        expect(customerId).toBe(String(source.customerId));
        expect(fields.email ?? '').toBe(source.customerEmail ?? '');
        expect(fields.phone ?? '').toBe(source.customerPhone ?? '');
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
      }
    }),
  );
});
