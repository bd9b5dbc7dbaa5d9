import { describe, expect, test } from '@jest/globals';
import { type CustomerEntry, FIELDS } from '@opm/core';
import fc from 'fast-check';
import { type Chunk, parseChunk, toChunkData } from './chunk.js';

const versions = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const value = fc.string({ minLength: 1, unit: 'grapheme' });
const givenFields = fc
  .record(Object.fromEntries(FIELDS.map((field) => [field, value])), { requiredKeys: [] })
  .filter((fields) => Object.keys(fields).length > 0);
const entry: fc.Arbitrary<CustomerEntry> = fc.oneof(
  fc.record({ customerId: value, version: versions, fields: givenFields }),
  fc.record({ customerId: value, version: versions, erase: fc.constant(true as const) }),
);
const entries = fc.array(entry, { minLength: 1, maxLength: 20 });
const ofOneAdmission = fc
  .tuple(entries, fc.integer({ min: 1, max: 2 ** 52 }))
  .map(([given, first]) => given.map((one, i) => ({ ...one, version: first + i })));
const projectId = fc.integer({ min: 1, max: 2 ** 31 - 1 });
const chunk: fc.Arbitrary<Chunk> = fc.record({ projectId, entries: fc.oneof(entries, ofOneAdmission) });

test('any chunk comes out of a job’s data as it went in', () => {
  fc.assert(
    fc.property(chunk, (given) => {
      expect(parseChunk(JSON.parse(JSON.stringify(toChunkData(given))))).toEqual(given);
    }),
  );
});

test('versions that follow one another, and columns without a value, take no room', () => {
  const numbered = [7, 8, 9].map((version) => ({ customerId: `c${version}`, version, fields: { ip: '::1' } }));
  expect(toChunkData({ projectId: 1, entries: numbered })).toEqual({
    v: 2,
    projectId: 1,
    version: 7,
    customerIds: ['c7', 'c8', 'c9'],
    ip: ['::1', '::1', '::1'],
  });
});

describe('what is no chunk is refused with the reason:', () => {
  const data = { v: 2, projectId: 1, version: 5, customerIds: ['a', 'b'], email: ['a@example.com', 'b@example.com'] };

  test.each([
    [null, 'data must be object'],
    [{ ...data, v: 1 }, 'data/v must be equal to constant'],
    [{ ...data, other: [] }, 'data must NOT have additional properties'],
    [{ ...data, customerIds: [] }, 'data/customerIds must NOT have fewer than 1 items'],
    [{ ...data, customerIds: ['a', ''] }, 'data/customerIds/1 must NOT have fewer than 1 characters'],
    [{ ...data, version: 0 }, 'data/version must be >= 1'],
    [{ ...data, email: ['a@example.com', ''] }, 'data/email/1 must NOT have fewer than 1 characters'],
    [{ ...data, email: ['a@example.com', 5] }, 'data/email/1 must be string'],
    [{ ...data, email: ['a@example.com'] }, 'data/email must have 2 items'],
    [{ ...data, steps: [0] }, 'data/steps must have 2 items'],
    [{ ...data, steps: [0, -5] }, 'data/steps/1 must lead to a version'],
    [{ ...data, email: ['a@example.com', null] }, 'entry 1 must give fields or be erased'],
    [{ ...data, erased: [1] }, 'entry 1 must give fields or be erased'],
  ])('%j', (given, reason) => {
    expect(() => parseChunk(given)).toThrow(new Error(`job data is not a chunk: ${reason}`));
  });
});
