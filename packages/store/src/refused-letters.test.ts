import { expect, test } from '@jest/globals';
import { findField } from './refused-letters.js';

const LONG = { email: 'x'.repeat(65), phone: '\u{1F9D1}'.repeat(64) };

test.each([
  ['null value in column "first_name" of relation "customers" violates not-null constraint', {}, 'firstName'],
  ['new row for relation "customers" violates check constraint "customers_email_check"', {}, 'email'],
  ['duplicate key value violates unique constraint "customers_last_name_key"', {}, 'lastName'],
  ['index row size 4000 exceeds btree version 4 maximum 2704 for index "customers_ip_idx1"', {}, 'ip'],
  ['value too long for type character varying(64)', LONG, 'email'],
  ['value too long for type character(63)', LONG, undefined], // both are
  ['value too long for type character varying(70)', LONG, undefined],
  ['duplicate key value violates unique constraint "customers_pkey"', {}, undefined],
  ['null value in column "updated_at" of relation "customers" violates not-null constraint', {}, undefined],
  ['invalid byte sequence for encoding "UTF8": 0x00', {}, undefined],
  ['refused for the test', {}, undefined],
])('the field of the error %j', (error, fields, field) => {
  expect(findField(error, fields)).toBe(field);
});
