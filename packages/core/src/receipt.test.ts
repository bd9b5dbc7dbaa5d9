import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { FIELDS } from './customer.js';
import { parseReceipt, toReceipt } from './receipt.js';

const entries = fc.record({
  customerId: fc.string({ minLength: 1, maxLength: 255, unit: 'binary' }),
  version: fc.integer({ min: 36 ** 6, max: Number.MAX_SAFE_INTEGER }),
  fields: fc.option(
    fc
      .subarray([...FIELDS], { minLength: 1 })
      .map((given) => Object.fromEntries(given.map((field) => [field, 'value']))),
    { nil: undefined },
  ),
});

describe('a receipt', () => {
  test('gives back the version and the fields of any entry, in at most 14 letters and digits', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        const receipt = toReceipt(entry);
        expect(receipt).toMatch(/^[0-9a-z]{10,14}$/);
        const fields = FIELDS.filter((field) => entry.fields?.[field] !== undefined);
        expect(parseReceipt(receipt, entry.customerId)).toEqual({ version: entry.version, fields });
      }),
    );
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
});
