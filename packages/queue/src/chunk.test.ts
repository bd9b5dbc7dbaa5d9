import { describe, expect, test } from '@jest/globals';
import { parseChunk } from './chunk.js';

const chunkOf = (entry: object) => ({ v: 1, projectId: 1, entries: [{ customerId: 'c', version: 1, ...entry }] });

describe('an entry of a chunk gives fields or erases:', () => {
  test.each([{ fields: { email: 'a@example.com' } }, { erase: true }])('%j is taken', (entry) => {
    expect(parseChunk(chunkOf(entry))).toEqual(chunkOf(entry));
  });

  test.each([
    [{}, "data/entries/0 must have required property 'fields'"],
    [{ fields: { email: 'a@example.com' }, erase: true }, 'data/entries/0/fields boolean schema is false'],
    [{ fields: {} }, 'data/entries/0/fields must NOT have fewer than 1 properties'],
    [{ fields: { email: '' } }, 'data/entries/0/fields/email must NOT have fewer than 1 characters'],
    [{ fields: { other: 'x' } }, 'data/entries/0/fields must NOT have additional properties'],
    [{ erase: false }, 'data/entries/0/erase must be equal to constant'],
  ])('%j is not', (entry, reason) => {
    expect(() => parseChunk(chunkOf(entry))).toThrow(`job data is not a chunk: ${reason}`);
  });
});
