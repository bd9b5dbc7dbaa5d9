import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createAddressCheck, createApiKey, hashApiKey, isAddressRule, isApiKey } from './api-key.js';

test('a created key is valid, and no two are equal', () => {
  const keys = Array.from({ length: 1000 }, createApiKey);
  expect(keys.every(isApiKey)).toBe(true);
  expect(new Set(keys).size).toBe(keys.length);
});

test('a key with one character changed, removed or added is not a key', () => {
  const key = createApiKey();
  fc.assert(
    fc.property(fc.nat(key.length - 1), fc.constantFrom(...'09AZaz_- é\0'), (at, character) => {
      const changed = key.slice(0, at) + character + key.slice(at + 1);
      expect(isApiKey(changed)).toBe(changed === key);
      expect(isApiKey(key.slice(0, at) + key.slice(at + 1))).toBe(false);
      expect(isApiKey(key.slice(0, at) + character + key.slice(at))).toBe(false);
    }),
  );
});

test('a hash is the SHA-256 of the key', () => {
  expect(hashApiKey('opm_')).toBe('f4620bd1b89070a01de7e616f958d4276a096c2e4e494f390d9cbf9ef9f5bc4f');
});

test.each([
  ['203.0.113.7', '203.0.113.7', true],
  ['203.0.113.7', '203.0.113.8', false],
  ['203.0.113.7', '::ffff:203.0.113.7', true],
  ['203.0.113.7', '::ffff:cb00:7107', true],
  ['203.0.113.0/24', '203.0.113.255', true],
  ['203.0.113.0/24', '203.0.114.0', false],
  ['203.0.113.9/24', '203.0.113.1', true],
  ['0.0.0.0/0', '198.51.100.1', true],
  ['0.0.0.0/0', '2001:db8::1', false],
  ['::ffff:203.0.113.7', '203.0.113.7', true],
  ['2001:db8::/32', '2001:DB8:ffff::1', true],
  ['2001:db8::/32', '2001:db9::1', false],
  ['2001:db8::1', '2001:db8:0:0:0:0:0:1', true],
  ['203.0.113.0/24', '', false],
  ['203.0.113.0/24', 'unknown', false],
  ['203.0.113.0/24', '203.0.113.7:443', false],
  ['203.0.113.0/24', '203.0.113.07', false],
  ['fe80::/10', 'fe80::1%eth0', true],
  ['fe80::/10', 'fe80::1%no such interface', false],
])('the rule %s and the address %j: %s', (rule, address, isIn) => {
  expect(isAddressRule(rule)).toBe(true);
  expect(createAddressCheck(['192.0.2.1', rule])(address)).toBe(isIn);
});

test.each([
  '',
  'any',
  '203.0.113.7/33',
  '203.0.113/24',
  '2001:db8::/129',
  '203.0.113.7/',
  '/24',
  'fe80::1%eth0',
  ' ::1',
])('%j is no rule, and has no address', (rule) => {
  expect(isAddressRule(rule)).toBe(false);
  expect(createAddressCheck([rule])('203.0.113.7')).toBe(false);
});

test('a block has the addresses that share its first bits, and no other', () => {
  const toText = (bits: number) => [24, 16, 8, 0].map((shift) => (bits >>> shift) & 255).join('.');
  const address = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  fc.assert(
    fc.property(address, fc.nat(32), fc.nat(31), (block, prefix, changed) => {
      const isIn = createAddressCheck([`${toText(block)}/${prefix}`]);
      expect(isIn(toText(block ^ (1 << (31 - changed))))).toBe(changed >= prefix);
    }),
  );
});
