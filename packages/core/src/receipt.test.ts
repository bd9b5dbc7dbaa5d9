import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type CustomerEntry, FIELDS, mergeCustomer, toState } from './customer.js';
import { isStored, parseReceipt, toReceipt } from './receipt.js';

const entries = fc.record({
  customerId: fc.string({ minLength: 1, maxLength: 255, unit: 'binary' }),
  version: fc.integer({ min: 1, max: 36 ** 10 - 1 }),
  fields: fc.option(
    fc
      .subarray([...FIELDS], { minLength: 1 })
      .map((given) => Object.fromEntries(given.map((field) => [field, 'value']))),
    { nil: undefined },
  ),
});

describe('a receipt', () => {
  test('gives back the version and the fields of any entry, in 13 or 14 letters and digits', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        const receipt = toReceipt(entry);
        expect(receipt).toMatch(/^[0-9a-z]{13,14}$/);
        const fields = FIELDS.filter((field) => entry.fields?.[field] !== undefined);
        expect(parseReceipt(receipt, entry.customerId)).toEqual({ version: entry.version, fields });
      }),
    );
  });

  test('of an earlier release gives them back, too', () => {
    expect(parseReceipt('hon7wlue0whpv', '7519')).toEqual({ version: 1_796_045_486_000_000, fields: ['email', 'ip'] });
    expect(parseReceipt('hdaaeuvb400pv', '7519')).toEqual({ version: 1_764_000_000_000_000, fields: [] });
    expect(parseReceipt('hon7wlue0wwpv', '7519')).toBeUndefined(); // of a later one, with a sixth field
  });

  test('of another customer, or a text that is none, is refused', () => {
    const receipt = toReceipt({ customerId: '7519', version: 1_796_045_486_000_000, fields: { email: 'a' } });
    expect(parseReceipt(receipt, '7519')).toBeDefined();
    expect(parseReceipt(receipt, '7520')).toBeUndefined();
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const parsed = parseReceipt(text, '7519');
        if (parsed) expect(Number.isSafeInteger(parsed.version)).toBe(true);
      }),
    );
    for (const text of ['', receipt.toUpperCase(), `${receipt} `, `zz${receipt}`])
      expect(parseReceipt(text, '7519')).toBeUndefined();
  });

  test('says "stored" if and only if merging the entry again changes no field', () => {
    const customerId = '7519';
    const T0 = 1_796_045_486_000_000;
    const fields = fc.subarray([...FIELDS], { minLength: 1 });
    // Of each entry: whether the row has it.
    const history = fc
      .array(fc.record({ fields: fc.option(fields, { freq: 4 }), isMerged: fc.boolean() }), {
        minLength: 2,
        maxLength: 8,
      })
      .map((all) =>
        all.map((one, i): { entry: CustomerEntry; isMerged: boolean } => {
          const change = one.fields
            ? { fields: Object.fromEntries(one.fields.map((field) => [field, `${i}`])) }
            : { erase: true as const };
          return { entry: { customerId, version: T0 + i, ...change }, isMerged: one.isMerged };
        }),
      );
    const seen = new Set<string>();
    fc.assert(
      fc.property(history, (all) => {
        const [first, ...others] = all.filter(({ isMerged }) => isMerged).map(({ entry }) => toState(entry));
        if (!first) return;
        const row = others.reduce(mergeCustomer, first);
        for (const { entry, isMerged } of all) {
          const receipt = parseReceipt(toReceipt(entry), customerId);
          const again = mergeCustomer(row, toState(entry));
          // Merging an older entry moves the row's creation, which is no field.
          const isSame = JSON.stringify({ ...again, firstVersion: 0 }) === JSON.stringify({ ...row, firstVersion: 0 });
          expect(receipt && isStored(receipt, row)).toBe(isSame);
          seen.add(`${isMerged} ${isSame}`);
        }
      }),
      { numRuns: 1_000 },
    );
    expect([...seen].sort()).toEqual(['false false', 'false true', 'true true']);
  });
});
