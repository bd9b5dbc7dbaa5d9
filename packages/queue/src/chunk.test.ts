import { describe, expect, test } from '@jest/globals';
import { FIELDS } from '@opm/core';
import fc from 'fast-check';
import { type Chunk, type ChunkEntry, parseChunk, parseJobId, toChunkData, toJobId } from './chunk.js';

const versions = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const value = fc.string({ minLength: 1, unit: 'grapheme' });
const givenFields = fc
  .record(Object.fromEntries(FIELDS.map((field) => [field, value])), { requiredKeys: [] })
  .filter((fields) => Object.keys(fields).length > 0);
const projectId = fc.integer({ min: 1, max: 2 ** 31 - 1 });
const entry: fc.Arbitrary<ChunkEntry> = fc.oneof(
  fc.record({ projectId, customerId: value, version: versions, fields: givenFields }),
  fc.record({ projectId, customerId: value, version: versions, erase: fc.constant(true as const) }),
);
const entries = fc.array(entry, { minLength: 1, maxLength: 20 });
const consecutive = fc
  .tuple(entries, fc.integer({ min: 1, max: 2 ** 52 }))
  .map(([given, first]) => given.map((one, i) => ({ ...one, version: first + i })));
const readmitted = fc
  .tuple(entries, versions)
  .map(([given, first]) =>
    given.map((one, i) => ({ ...one, ...(first - i > 0 && first - i !== one.version && { claim: first - i }) })),
  );
const id = fc.string({ minLength: 1 });
const requestIds = fc.oneof(fc.record({ idempotencyKey: id }), fc.record({ requestId: id, idempotencyKey: id }));
const ofRequests = fc
  .tuple(entries, fc.array(requestIds, { minLength: 1, maxLength: 3 }), fc.infiniteStream(fc.nat(3)))
  .map(([given, requests, places]) =>
    given.map((one) => {
      const ids = requests[places.next().value];
      return { ...one, ...(ids && { requestIds: ids }) };
    }),
  );
const chunk: fc.Arbitrary<Chunk> = fc.record({ entries: fc.oneof(entries, consecutive, readmitted, ofRequests) });

test('any chunk survives the conversion to job data and back', () => {
  fc.assert(
    fc.property(chunk, (given) => {
      expect(parseChunk(JSON.parse(JSON.stringify(toChunkData(given))))).toEqual(given);
    }),
  );
});

test('consecutive versions and columns without a value take no space', () => {
  const numbered = [7, 8, 9].map((version) => ({
    projectId: 1,
    customerId: `c${version}`,
    version,
    fields: { ip: '::1' },
  }));
  expect(toChunkData({ entries: numbered })).toEqual({
    v: 3,
    projectIds: [1, 1, 1],
    version: 7,
    customerIds: ['c7', 'c8', 'c9'],
    ip: ['::1', '::1', '::1'],
  });
});

test('the ids of a request are in job data once, however many entries it has', () => {
  const [one, other] = [{ idempotencyKey: 'k' }, { idempotencyKey: 'k', requestId: 'r' }];
  const entries = [one, one, undefined, other, one].map((ids, i) => ({
    ...{ projectId: 1, customerId: `c${i}`, version: i + 1, fields: { ip: '::1' } },
    ...(ids && { requestIds: ids }),
  }));
  const data = toChunkData({ entries });
  expect([data.requestIds, data.requestOf]).toEqual([
    [one, other],
    [0, 0, -1, 1, 0],
  ]);
});

test('job data of the last release, with one project, is parsed too', () => {
  const data = {
    v: 2,
    projectId: 7,
    version: 5,
    steps: [0, 3],
    customerIds: ['a', 'b'],
    erased: [1],
    ip: ['::1', null],
  };
  expect(parseChunk(data)).toEqual({
    entries: [
      { projectId: 7, customerId: 'a', version: 5, fields: { ip: '::1' } },
      { projectId: 7, customerId: 'b', version: 8, erase: true },
    ],
  });
});

describe('invalid data is rejected with the reason:', () => {
  const data = {
    ...{ v: 3, projectIds: [1, 2], version: 5, customerIds: ['a', 'b'] },
    email: ['a@example.com', 'b@example.com'],
  };

  test.each([
    [null, 'data must be object'],
    [{ ...data, v: 1 }, 'data/v must be equal to one of the allowed values'],
    [{ ...data, v: 2 }, "data must have required property 'projectId'"],
    [{ ...data, projectIds: [1] }, 'data/projectIds must have 2 items'],
    [{ ...data, projectIds: [1, 0] }, 'data/projectIds/1 must be >= 1'],
    [{ ...data, claims: [0] }, 'data/claims must have 2 items'],
    [{ ...data, claims: [0, -9] }, 'data/claims/1 must lead to a version'],
    [{ ...data, requestOf: [0, -1] }, 'data/requestOf/0 must be an index of data/requestIds'],
    [{ ...data, requestIds: [{}], requestOf: [0] }, 'data/requestOf must have 2 items'],
    [{ ...data, requestIds: [{ requestId: 1 }] }, 'data/requestIds/0/requestId must be string'],
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

const T0 = 1_764_000_000_000_000; // divisible by 16
const entryOf = (version: number, projectId = 7) => ({
  projectId,
  customerId: 'jane',
  version,
  fields: { phone: '+1' },
});

test('a job id contains the oldest claim, the number of entries, and their sampled counts by project', () => {
  const entries = [...Array.from({ length: 40 }, (_, i) => entryOf(T0 + i)), entryOf(T0 + 48, 9), entryOf(T0 + 49, 10)];
  expect(parseJobId(toJobId({ entries: entries.toReversed() }))).toEqual({
    oldest: T0,
    entries: 42,
    versions: [T0, T0 + 49],
    ofProjects: [
      [9, 16],
      [7, 48],
    ],
  });
});

test('an entry that was admitted again counts by its claim', () => {
  const entries = [{ ...entryOf(T0 - 160), claim: T0 + 17 }];
  expect(parseJobId(toJobId({ entries }))).toEqual({
    oldest: T0 + 17,
    entries: 1,
    ofProjects: [],
    versions: [T0 - 160, T0 - 160],
  });
});

test('a job id tells the first and the last version, whatever the order, the versions and the claims of the entries', () => {
  const version = fc.integer({ min: T0, max: T0 + 1_000 });
  const entry = fc.tuple(version, fc.option(version, { nil: undefined })).map(([own, claim]) => {
    return { ...entryOf(own), ...(claim !== undefined && { claim }) };
  });
  fc.assert(
    fc.property(fc.array(entry, { minLength: 1 }), (entries) => {
      const versions = entries.map((one) => one.version).sort((a, b) => a - b);
      const summary = parseJobId(toJobId({ entries }));
      expect(summary).toMatchObject({ entries: entries.length, versions: [versions[0], versions.at(-1)] });
      expect(summary?.oldest).toBe(Math.min(...entries.map((one) => one.claim ?? one.version)));
    }),
  );
});

test('equal chunks get different ids, because BullMQ drops a job whose id exists', () => {
  const chunk = { entries: [entryOf(T0)] };
  expect(toJobId(chunk)).not.toBe(toJobId(chunk));
});

test('an id of the last release contains all entries of its project', () => {
  expect(parseJobId(`${T0}-7x150-1f3a9c2e`)).toEqual({
    oldest: T0,
    entries: 150,
    ofProjects: [[7, 150]],
    versions: [T0, T0 + 149],
  });
});

test.each(['17', 'repeat-x', `${T0}-1f3a9c2e`, `${T0}-7x200`, `${T0}-200`, ''])('the id %s is not parsed', (id) => {
  expect(parseJobId(id)).toBeUndefined();
});
