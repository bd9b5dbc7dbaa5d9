import { describe, expect, test } from '@jest/globals';
import { FIELDS, toReceipt } from '@opm/core';
import { type SentEntry, toValue } from '../load/ledger.js';
import { type AskedReceipt, judgeReceipt } from './check-rows.js';

const VERSION = 1_796_045_486_000_000;

const ENTRY: SentEntry = {
  ...{ id: 5, customerId: '3/c-1', fields: ['email', 'ip'], erases: false },
  ...{ sentAt: 0, answeredAt: 1, outcome: 'acknowledged', status: 202 },
};
const ERASURE: SentEntry = { ...ENTRY, fields: [], erases: true };

/** The receipt of an entry of the customer; the row has these versions, all others are 0. */
function toAsked(
  sent: SentEntry,
  { state = 'stored', isRefused = false, ...row }: Partial<Record<string, unknown>>,
): AskedReceipt {
  const fields = Object.fromEntries(sent.fields.map((field) => [field, toValue(sent.id, field)]));
  const receipt = toReceipt({ customerId: 'c-1', version: VERSION, ...(!sent.erases && { fields }) });
  const versions = [...FIELDS, 'erased'].map((name) => Number(row[name] ?? 0));
  return { sent, receipt, versions, state: String(state), isRefused: isRefused === true };
}
const VALUES = { email: 'email5', ip: 'ip5' };
const LATER = VERSION + 1;

describe('a receipt is accepted', () => {
  test.each<[string, AskedReceipt, object]>([
    ['if the row has its values', toAsked(ENTRY, { email: VERSION, ip: VERSION }), VALUES],
    ['if newer entries cover it', toAsked(ENTRY, { email: VERSION, ip: LATER }), { email: 'email5', ip: 'ip6' }],
    ['if a newer erasure covers it', toAsked(ENTRY, { erased: LATER }), {}],
    ['if the erasure is stored', toAsked(ERASURE, { erased: VERSION }), {}],
    ['if a dead letter has the entry', toAsked(ENTRY, { state: 'refused', isRefused: true, email: LATER }), {}],
    ['if another attempt wrote the values', toAsked({ ...ENTRY, repeats: 1 }, { email: LATER, ip: LATER }), VALUES],
  ])('%s', (_what, asked, row) => {
    expect(judgeReceipt(asked, row)).toBeUndefined();
  });
});

describe('a receipt is reported', () => {
  const stored = { email: VERSION, ip: VERSION };
  test.each<[string, AskedReceipt, RegExp, object?]>([
    ['that is stored but not in the row', toAsked(ENTRY, { email: VERSION }), /is stored, but .* neither stored nor/],
    ['of an erasure that is not stored', toAsked(ERASURE, { email: LATER }), /is stored, but .* neither stored nor/],
    ['that is refused but in the row', toAsked(ENTRY, { ...stored, state: 'refused' }), /is refused, but .* is stored/],
    ['that is refused without a letter', toAsked(ENTRY, { state: 'refused' }), /is refused, but .* neither/],
    ['that is pending', toAsked(ENTRY, { ...stored, state: 'pending' }), /is pending, but .* is stored/],
    ['that is unknown', toAsked(ENTRY, { ...stored, state: 'unknown' }), /is unknown, but .* is stored/],
    ['that the API does not accept', toAsked(ENTRY, { ...stored, state: 'a 400' }), /is a 400, but .* is stored/],
    ['that has other fields', { ...toAsked(ENTRY, stored), sent: { ...ENTRY, fields: ['email'] } }, /not a receipt of/],
    ['of another customer', { ...toAsked(ENTRY, stored), sent: { ...ENTRY, customerId: '3/c-2' } }, /not a receipt of/],
    ['with another version than its values', toAsked(ENTRY, { email: LATER, ip: LATER }), /but its email has/, VALUES],
  ])('%s', (_what, asked, what, row = {}) => {
    expect(judgeReceipt(asked, row)).toMatch(what);
  });
});
