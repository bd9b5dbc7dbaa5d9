import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseOpen, parsePart, toClosedState, toOpenState } from './idempotency.js';

const record = (state: string) => ({ fingerprint: 'abcdefgh', version: 1_000, state });

test('a closed part has the verdicts it was closed with', () => {
  const verdicts = fc.array(fc.boolean(), { minLength: 1, maxLength: 1_000 });
  fc.assert(
    fc.property(verdicts, (existed) => {
      const state = toClosedState(existed);
      expect(parsePart(record(state))).toEqual({ size: existed.length, existed });
      expect(state.length).toBeLessThanOrEqual(existed.length / 4 + 7);
    }),
  );
});

test('an open part has the claims that its entries found, and the version of its last admission', () => {
  const previous = fc.string({ unit: fc.constantFrom('p', 'e', '-'), maxLength: 1_000 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000 }), previous, fc.option(fc.nat()), (size, found, claim) => {
      const state = toOpenState(size, found) + (claim === null ? '' : `:${claim}`);
      expect(parseOpen(record(state))).toEqual({ size, previous: found, claim: claim ?? 1_000 });
    }),
  );
});

test('a request without a part has no state, and any other form is refused', () => {
  expect(parsePart(record(''))).toBeUndefined();
  for (const state of [':', '=1', '=1:', ':1', ':x:', '=1:g', 'junk']) {
    expect(() => parsePart(record(state))).toThrow('unknown state');
  }
  expect(() => parseOpen(record('=1:0'))).toThrow('not open');
});
