import { describe, expect, test } from '@jest/globals';
import { toChunkData } from '@opm/queue';
import { MASK, maskJobData } from './mask-job-data.js';

const fields = { email: 'ada@example.com', phone: '+4915112345678', firstName: 'Ada', lastName: 'Lovelace', ip: '::1' };
const entry = { projectId: 7, customerId: 'customer-4711', version: 1_700_000_000_000_001, fields };
const data = toChunkData({ entries: [entry] });

describe('maskJobData', () => {
  test('keeps the entries, their projects, their versions and the names of the fields, and no value', () => {
    const erasure = { projectId: 8, customerId: 'käufer-12', version: 3, erase: true as const };
    const partial = { projectId: 7, customerId: 'customer-4712', version: 4, fields: { phone: '+1' } };
    expect(maskJobData(toChunkData({ entries: [entry, erasure, partial] }))).toEqual({
      entries: [
        {
          projectId: 7,
          customerId: `cu${MASK}`,
          version: 1_700_000_000_000_001,
          fields: { email: MASK, phone: MASK, firstName: MASK, lastName: MASK, ip: MASK },
        },
        { projectId: 8, customerId: `kä${MASK}`, version: 3, erase: true },
        { projectId: 7, customerId: `cu${MASK}`, version: 4, fields: { phone: MASK } },
      ],
    });
  });

  test.each(['a', 'ada', 'ada-1', '👩‍🚀'])('shows nothing of the short customer id %j', (customerId) => {
    expect(maskJobData({ ...data, customerIds: [customerId] })).toHaveProperty('entries.0.customerId', MASK);
  });

  test.each([
    ['no object', 'ada@example.com'],
    ['null', null],
    ['nothing', undefined],
    ['a list', [entry]],
    ['another version', { ...data, v: 1 }],
    ['no version', { ...data, v: undefined }],
    ['a project that is no number', { ...data, projectIds: ['ada@example.com'] }],
    ['ids that are no list', { ...data, customerIds: { ada: entry } }],
    ['a customer id that is no string', { ...data, customerIds: [4711] }],
    ['a version that is no number', { ...data, version: 'ada@example.com' }],
    ['an erasure that is no place', { ...data, erased: ['ada@example.com'] }],
    ['a value that is no string', { ...data, lastName: [['Lovelace']] }],
    ['a value too many', { ...data, lastName: ['Lovelace', 'Byron'] }],
    ['an unknown column', { ...data, 'ada@example.com': [1] }],
  ])('masks data whole that is not a chunk: %s', (_, broken) => {
    expect(maskJobData(broken)).toBe(MASK);
  });
});
