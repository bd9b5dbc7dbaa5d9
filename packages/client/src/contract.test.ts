import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { entrySchema, FAULTS, parseEntry, toCustomerAnswer } from '@opm/contract';
import { toError } from './errors.js';
import type { Customer, StoredCustomer } from './index.js';

type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;

// These fail to compile if the client's types and the schema differ.
const haveSameProperties: Same<keyof Customer, keyof typeof entrySchema.properties> = true;
const full: Required<{ [Property in keyof Customer]: NonNullable<Customer[Property]> }> = {
  customerId: 1,
  customerEmail: 'e',
  customerPhone: 'p',
  customerFirstName: 'f',
  customerLastName: 'l',
  customerIP: 'i',
};
const stored: Record<keyof StoredCustomer, null> = {
  customerId: null,
  customerEmail: null,
  customerPhone: null,
  customerFirstName: null,
  customerLastName: null,
  customerIP: null,
  createdAt: null,
  updatedAt: null,
};

test('the type Customer has the properties of the contract’s entry schema', () => {
  expect(haveSameProperties).toBe(true);
  expect(Object.keys(full).sort()).toEqual(Object.keys(entrySchema.properties).sort());
  expect(Object.keys(parseEntry(full).fields)).toHaveLength(Object.keys(full).length - 1);
  const nothingElse: Customer = { customerId: '1', customerEmail: 'e', customerPhone: null, customerIP: undefined };
  expect(parseEntry(nothingElse)).toEqual({ customerId: '1', fields: { email: 'e' } });
});

test('the type StoredCustomer has the properties of the contract', () => {
  expect(Object.keys(toCustomerAnswer('1', undefined, false).customer).sort()).toEqual(Object.keys(stored).sort());
});

test('the README names the error class of each status of the contract', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const rows = [...readme.matchAll(/^\| `(\w*Error)`[^|]*\|([^|]*)\|/gm)];
  const statuses = new Set(Object.values(FAULTS).map(({ statusCode }) => statusCode));
  for (const statusCode of statuses) {
    const { name } = toError({
      statusCode,
      body: {},
      requestId: undefined,
      retryAfter: undefined,
      rateLimit: undefined,
      receipt: undefined,
    });
    const status = statusCode >= 500 ? '5xx' : String(statusCode);
    const names = rows.filter(([, , when]) => when?.includes(status)).map(([, name]) => name);
    expect({ statusCode, names }).toEqual({ statusCode, names: [name] });
  }
});
