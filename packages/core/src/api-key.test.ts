import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createApiKey, hashApiKey, isApiKey } from './api-key.js';

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
