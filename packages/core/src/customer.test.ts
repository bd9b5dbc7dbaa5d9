import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type CustomerEntry, FIELDS, foldEntries, isLive, mergeCustomer, toState } from './customer.js';

/** Entries of one customer. A version identifies one entry, so the values are derived from the version. */
const entries = fc.uniqueArray(
  fc.record({
    version: fc.integer({ min: 1, max: 40 }),
    given: fc.subarray([...FIELDS], { minLength: 1 }),
    erase: fc.integer({ min: 0, max: 4 }).map((n) => n === 0),
  }),
  { selector: ({ version }) => version, minLength: 1, maxLength: 12 },
);
type Drawn = { version: number; given: (typeof FIELDS)[number][]; erase: boolean };
const toEntry = ({ version, given, erase }: Drawn): CustomerEntry =>
  erase
    ? { customerId: 'c', version, erase }
    : { customerId: 'c', version, fields: Object.fromEntries(given.map((field) => [field, `${field} at ${version}`])) };
const states = entries.map(
  (drawn) => [...foldEntries(drawn.map(toEntry)).values()][0] ?? toState(toEntry(drawn[0] as Drawn)),
);

describe('merging customers is', () => {
  // Histories overlap: a version that is in several of them is the same entry in each.
  const one = fc.integer({ min: 1, max: 30 }).map((version) =>
    toState(
      toEntry({
        version,
        erase: version % 7 === 0,
        given: FIELDS.filter((_, i) => ((version * 11) >> i) % 2 === 1 || i === 0),
      }),
    ),
  );
  const history = fc.array(one, { minLength: 1, maxLength: 8 }).map((list) => list.reduce(mergeCustomer));

  test('commutative', () => {
    fc.assert(fc.property(history, history, (a, b) => expect(mergeCustomer(a, b)).toEqual(mergeCustomer(b, a))));
  });
  test('associative', () => {
    fc.assert(
      fc.property(history, history, history, (a, b, c) =>
        expect(mergeCustomer(mergeCustomer(a, b), c)).toEqual(mergeCustomer(a, mergeCustomer(b, c))),
      ),
    );
  });
  test('idempotent', () => {
    fc.assert(fc.property(states, (a) => expect(mergeCustomer(a, a)).toEqual(a)));
  });
});

test('entries that arrive in any order, in any batches and any number of times settle on the same customer', () => {
  const shuffled = entries.chain((drawn) =>
    fc.tuple(
      fc.constant(drawn.map(toEntry)),
      fc.shuffledSubarray([...drawn, ...drawn].map(toEntry), { minLength: drawn.length * 2 }),
      fc.nat(drawn.length * 2),
    ),
  );
  fc.assert(
    fc.property(shuffled, ([inOrder, anyOrder, cut]) => {
      inOrder.sort((a, b) => a.version - b.version);
      const expected = foldEntries(inOrder).get('c');
      const batches = [anyOrder.slice(0, cut), anyOrder.slice(cut)].filter((batch) => batch.length > 0);
      const [first, ...rest] = batches.map((batch) => foldEntries(batch).get('c'));
      expect(rest.reduce((a, b) => mergeCustomer(a as never, b as never), first)).toEqual(expected);
    }),
  );
});

test('an older entry still sets the fields that the newer one omits', () => {
  const { fields, versions } = mergeCustomer(
    toState({ customerId: 'c', version: 2, fields: { email: 'new@example.com' } }),
    toState({ customerId: 'c', version: 1, fields: { email: 'old@example.com', phone: '+1' } }),
  );
  expect(fields).toEqual({ email: 'new@example.com', phone: '+1' });
  expect(versions).toEqual({ email: 2, phone: 1, firstName: 0, lastName: 0, ip: 0 });
});

test('an erasure clears older fields, leaves a tombstone, and a later entry re-creates the customer', () => {
  const before = toState({ customerId: 'c', version: 1, fields: { email: 'a@example.com', lastName: 'Doe' } });
  const erased = mergeCustomer(before, toState({ customerId: 'c', version: 2, erase: true }));
  const versions = { email: 0, phone: 0, firstName: 0, lastName: 0, ip: 0 };
  expect(erased).toEqual({ fields: {}, versions, erasedVersion: 2, firstVersion: 2, lastVersion: 2 });
  expect(isLive(erased)).toBe(false);
  const again = mergeCustomer(toState({ customerId: 'c', version: 3, fields: { phone: '+1' } }), erased);
  expect(again).toMatchObject({ fields: { phone: '+1' }, versions: { ...versions, phone: 3 } });
  expect(isLive(again)).toBe(true);
});
