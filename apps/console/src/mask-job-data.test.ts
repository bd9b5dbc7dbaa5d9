import { describe, expect, test } from '@jest/globals';
import { MASK, maskJobData } from './mask-job-data.js';

const entry = { customerId: 'customer-4711', version: 1_700_000_000_000_001, fields: { email: 'ada@example.com' } };
const chunk = { v: 1, projectId: 7, entries: [entry] };

describe('maskJobData', () => {
  test('keeps the project, the number of entries, their versions and the names of the fields', () => {
    const erasure = { customerId: 'käufer-12', version: 3, erase: true };
    expect(maskJobData({ ...chunk, entries: [entry, erasure] })).toEqual({
      v: 1,
      projectId: 7,
      entries: [
        { customerId: `cu${MASK}`, version: 1_700_000_000_000_001, fields: { email: MASK } },
        { customerId: `kä${MASK}`, version: 3, erase: true },
      ],
    });
  });

  test('masks every field, whatever its value', () => {
    const fields = { email: null, phone: '', firstName: 'Ada', lastName: ['Lovelace'], ip: 42 };
    expect(maskJobData({ ...chunk, entries: [{ ...entry, fields }] })).toHaveProperty('entries.0.fields', {
      email: MASK,
      phone: MASK,
      firstName: MASK,
      lastName: MASK,
      ip: MASK,
    });
  });

  test.each(['', 'a', 'ada', 'ada-1', '👩‍🚀'])('shows nothing of the short customer id %j', (customerId) => {
    expect(maskJobData({ ...chunk, entries: [{ ...entry, customerId }] })).toHaveProperty('entries.0.customerId', MASK);
  });

  test.each([
    ['no object', 'ada@example.com'],
    ['null', null],
    ['nothing', undefined],
    ['a list', [entry]],
    ['another version', { ...chunk, v: 2 }],
    ['no version', { projectId: 7, entries: [entry] }],
    ['a project that is no number', { ...chunk, projectId: 'ada@example.com' }],
    ['entries that are no list', { ...chunk, entries: { ada: entry } }],
    ['a property that a chunk does not have', { ...chunk, ada: 1 }],
  ])('masks data whole that is not a chunk: %s', (_, data) => {
    expect(maskJobData(data)).toBe(MASK);
  });

  test.each([
    ['no object', 'ada@example.com'],
    ['null', null],
    ['a customer id that is no string', { ...entry, customerId: 4711 }],
    ['a version that is no number', { ...entry, version: 'ada@example.com' }],
    ['an erase that is no flag', { ...entry, erase: 'ada@example.com' }],
    ['fields that are no record', { ...entry, fields: ['ada@example.com'] }],
    ['an unknown field', { ...entry, fields: { 'ada@example.com': 1 } }],
    ['a property that an entry does not have', { ...entry, ada: 1 }],
  ])('masks an entry whole that is not one: %s', (_, broken) => {
    expect(maskJobData({ ...chunk, entries: [broken, entry] })).toHaveProperty('entries.0', MASK);
  });
});
