import { expect, test } from '@jest/globals';
import type { Sent } from '../load/ledger.js';
import { checkClaims } from './check-claims.js';

const DONE: Sent = {
  ...{ id: 1, customerId: 'a', fields: ['email'], erases: false, sentAt: 10, answeredAt: 11 },
  ...{ outcome: 'acknowledged', status: 201 },
};

test.each<[string, Sent[], number | undefined, number]>([
  ['that was done without a fault is left', [DONE], 9, 1],
  ['that nobody knows the fate of may be left', [DONE, { ...DONE, outcome: 'unknown' }], 9, 0],
  ['that was refused may be left', [{ ...DONE, outcome: 'refused' }], 9, 0],
  ['that was sent twice may be left', [{ ...DONE, repeats: 1 }], 9, 0],
  ['from before the end of the faults may be left', [DONE], 11, 0],
  ['may be left where the faults have no end', [DONE], undefined, 0],
])('a claim of what %s', (_title, all, quietSince, findings) => {
  expect(checkClaims(new Set(['a']), new Map([['a', all]]), quietSince)).toHaveLength(findings);
});
