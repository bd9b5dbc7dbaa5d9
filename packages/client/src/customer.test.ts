import { expect, test } from '@jest/globals';
import { type Customer, toEntry } from './customer.js';

const circular: Record<string, unknown> = { customerId: 'secret' };
circular.secret = circular;

test.each<[string, unknown, string]>([
  ['nothing', undefined, 'body must be object'],
  ['null', null, 'body must be object'],
  ['a string', 'secret', 'body must be object'],
  ['an array', [], 'body must be object'],
  ['a circular object', circular, 'body must be valid JSON'],
  ['a bigint', { customerId: 1n }, 'body must be valid JSON'],
  [
    '16 KiB in three-byte characters',
    { customerId: 1, customerEmail: '€'.repeat(5_460) },
    'body must not be larger than 16 KiB',
  ],
])('%s is refused before it is sent, and the error does not quote it', (_, customer, message) => {
  expect(() => toEntry(customer as Customer)).toThrow(expect.objectContaining({ name: 'InvalidEntryError', message }));
});
