import { describe, expect, test } from '@jest/globals';
import type { Field } from '@opm/core';
import fc from 'fast-check';
import { type SentEntry, toValue } from '../load/ledger.js';
import { checkClaims, checkCustomer, findUnknownFirsts, precedes, type Row } from './check-customer.js';

const SENT: SentEntry = {
  id: 0,
  customerId: 'a',
  fields: [],
  erases: false,
  sentAt: 0,
  answeredAt: Number.POSITIVE_INFINITY,
  outcome: 'unknown',
  status: 0,
};

/** An entry with the times at which it was sent and answered. */
const post = (
  id: number,
  [sentAt, answeredAt]: [number, number],
  fields: SentEntry['fields'],
  status = 202,
): SentEntry => ({
  ...SENT,
  ...{ id, sentAt, answeredAt, fields, status, outcome: 'acknowledged' },
});
const erase = (id: number, [sentAt, answeredAt]: [number, number], status = 202): SentEntry => ({
  ...post(id, [sentAt, answeredAt], [], status),
  erases: true,
  outcome: status === 404 ? 'refused' : 'acknowledged',
});
const unknown = (sent: SentEntry): SentEntry => ({
  ...sent,
  outcome: 'unknown',
  answeredAt: Number.POSITIVE_INFINITY,
  status: 0,
});
const refused = (sent: SentEntry): SentEntry => ({ ...sent, outcome: 'refused', status: 503 });
const repeated = (sent: SentEntry): SentEntry => ({ ...sent, repeats: 1 });
/** An entry that was sent again with its idempotency key, after a reader had seen its value. */
const seen = (sent: SentEntry, knownAt: number): SentEntry => ({ ...sent, open: 1, knownAt });
const inOneBatch = (...all: SentEntry[]) => all.map((sent) => ({ ...sent, batch: 7 }));

const rulesOf = (sent: SentEntry[], row: Row) => checkCustomer('a', sent, row).map(({ rule }) => rule);

describe('a row that some order of the entries explains is accepted:', () => {
  const cases: [string, SentEntry[], Row][] = [
    ['the last one wins', [post(1, [0, 1], ['email']), post(2, [2, 3], ['email'])], { email: 'email2' }],
    [
      'either of two overlapping entries may win',
      [post(1, [0, 5], ['email']), post(2, [2, 3], ['email'])],
      { email: 'email1' },
    ],
    [
      'a field that the last one leaves out stays',
      [post(1, [0, 1], ['email', 'phone']), post(2, [2, 3], ['email'])],
      { email: 'email2', phone: 'phone1' },
    ],
    [
      'an entry with an unknown outcome may take effect late',
      [unknown(post(1, [0, 1], ['email'])), post(2, [2, 3], ['email'])],
      { email: 'email1' },
    ],
    ['an entry with an unknown outcome may have no effect', [unknown(post(1, [0, 1], ['email']))], {}],
    ['a refused entry has no effect', [refused(post(1, [0, 1], ['email']))], {}],
    ['an erased value is gone', [post(1, [0, 1], ['email']), erase(2, [2, 3])], {}],
    [
      'an erasure with an unknown outcome explains a missing value',
      [post(1, [0, 1], ['email']), unknown(erase(2, [2, 3]))],
      {},
    ],
    [
      'an overlapping erasure may come before or after the entry',
      [post(1, [0, 5], ['email']), erase(2, [2, 3])],
      { email: 'email1' },
    ],
    [
      'a customer comes back',
      [post(1, [0, 1], ['email'], 201), erase(2, [2, 3]), post(3, [4, 5], ['phone'], 201)],
      { phone: 'phone3' },
    ],
    [
      'a customer who is erased twice comes back twice',
      [
        post(1, [0, 1], ['email'], 201),
        erase(2, [2, 3]),
        post(3, [4, 5], ['phone'], 201),
        unknown(erase(4, [6, 7])),
        post(5, [8, 9], ['phone'], 201),
      ],
      { phone: 'phone5' },
    ],
    [
      'a repeated erasure may take effect each time',
      [
        post(1, [0, 1], ['email'], 201),
        repeated(erase(2, [2, 7])),
        post(3, [3, 4], ['email'], 201),
        post(4, [5, 6], ['email'], 201),
      ],
      { email: 'email4' },
    ],
    [
      'in a batch the later one wins',
      inOneBatch(post(1, [0, 1], ['email']), post(2, [0, 1], ['email'])),
      { email: 'email2' },
    ],
    [
      'a repeated entry may take effect late',
      [repeated(post(1, [0, 1], ['email'])), post(2, [2, 3], ['email'])],
      { email: 'email1' },
    ],
    [
      'in a repeated batch the earlier entry may take effect again',
      inOneBatch(repeated(post(1, [0, 1], ['email'])), repeated(post(2, [0, 1], ['email']))),
      { email: 'email1' },
    ],
    [
      'an entry that was sent again with its key may come after a newer one that overlaps',
      [{ ...post(1, [0, 5], ['email']), open: 1 }, post(2, [2, 3], ['email'])],
      { email: 'email1' },
    ],
    [
      'a seen entry that was accepted again after its store was emptied may take effect late',
      [repeated(seen(post(1, [0, 5], ['email']), 1)), post(2, [2, 3], ['email'])],
      { email: 'email1' },
    ],
    [
      'an erasure between a seen entry and its repeat',
      [seen(post(1, [0, 9], ['email'], 201), 1), erase(2, [2, 3]), post(3, [4, 5], ['email'], 201)],
      { email: 'email3' },
    ],
    ['404 after an erasure', [post(1, [0, 1], ['email'], 201), erase(2, [2, 3]), erase(3, [4, 5], 404)], {}],
  ];
  test.each(cases)('%s', (_title, sent, row) => {
    expect(checkCustomer('a', sent, row)).toEqual([]);
  });
});

describe('a row that no order of the entries explains is found:', () => {
  const both = ['email', 'phone'] as const;
  const cases: [string, SentEntry[], Row, string[]][] = [
    ['no row', [post(1, [0, 1], ['email'])], {}, ['lost']],
    ['a field that is gone', [post(1, [0, 1], both), post(2, [2, 3], ['email'])], { email: 'email2' }, ['lost']],
    [
      'a field that was erased before a field that is there was given',
      [post(1, [0, 1], both), erase(2, [2, 3]), post(3, [4, 5], ['phone'])],
      { email: 'email1', phone: 'phone3' },
      ['lost'],
    ],
    [
      'a missing field that only an earlier erasure could explain',
      [erase(1, [0, 1]), post(2, [2, 3], ['email'])],
      {},
      ['lost'],
    ],
    [
      'a field erased by an erasure that left an older field',
      [post(1, [0, 1], ['email']), post(2, [2, 3], ['phone']), erase(3, [4, 5])],
      { email: 'email1' },
      ['lost'],
    ],
    [
      'an older value than a repeated one',
      [post(1, [0, 1], ['email']), repeated(post(2, [2, 3], ['email']))],
      { email: 'email1' },
      ['lost'],
    ],
    [
      'a seen value that came back when its entry was sent again after a newer one',
      [seen(post(1, [0, 5], ['email']), 1), post(2, [2, 3], ['email'])],
      { email: 'email1' },
      ['lost'],
    ],
    [
      'a seen value of an entry with an unknown outcome that came back',
      [seen(unknown(post(1, [0, 1], ['email'])), 1), post(2, [2, 3], ['email'])],
      { email: 'email1' },
      ['lost'],
    ],
    [
      '201 for a repeat although a newer entry got the 201',
      [{ ...post(1, [0, 5], ['email'], 201), open: 1 }, post(2, [2, 3], ['email'], 201)],
      { email: 'email2' },
      ['created twice', 'created twice'],
    ],
    ['an older value', [post(1, [0, 1], ['email']), post(2, [2, 3], ['email'])], { email: 'email1' }, ['lost']],
    [
      'an older value of a batch',
      inOneBatch(post(1, [0, 1], ['email']), post(2, [0, 1], ['email'])),
      { email: 'email1' },
      ['lost'],
    ],
    ['a value that no entry gave', [post(1, [0, 1], ['email'])], { email: 'email2' }, ['wrong']],
    ['a value of another field', [post(1, [0, 1], both)], { email: 'phone1', phone: 'phone1' }, ['wrong']],
    [
      'a value that was refused',
      [post(1, [0, 1], ['email']), refused(post(2, [2, 3], ['email']))],
      { email: 'email2' },
      ['wrong'],
    ],
    [
      'one field from each of two entries that both gave both fields',
      [post(1, [0, 5], both), post(2, [1, 4], both)],
      { email: 'email1', phone: 'phone2' },
      ['lost'],
    ],
    [
      'half an entry beside an erasure that overlaps',
      [post(1, [0, 5], both, 201), erase(2, [1, 4])],
      { email: 'email1' },
      ['lost'],
    ],
    [
      'an older value, as another field shows',
      [post(1, [0, 4], ['email'], 201), post(2, [1, 9], both), post(3, [5, 8], ['phone'])],
      { email: 'email1', phone: 'phone2' },
      ['lost'],
    ],
    [
      'a much older value of an entry with an unknown outcome',
      [unknown(post(1, [0, 1], ['email'])), post(2, [1e6, 1e6 + 1], ['email'])],
      { email: 'email1' },
      ['lost'],
    ],
    [
      '201 twice, one after the other',
      [post(1, [0, 1], both, 201), post(2, [2, 3], both, 201)],
      { email: 'email2', phone: 'phone2' },
      ['created twice', 'created twice'],
    ],
    [
      '201 twice, at the same time',
      [post(1, [0, 3], both, 201), post(2, [1, 2], both, 201)],
      { email: 'email1', phone: 'phone1' },
      ['created twice', 'created twice'],
    ],
    [
      '201 after a 202',
      [post(1, [0, 1], both), post(2, [2, 3], both, 201)],
      { email: 'email2', phone: 'phone2' },
      ['created twice'],
    ],
    [
      '201 twice, and an erasure before both',
      [erase(1, [0, 1]), post(2, [2, 3], both, 201), post(3, [4, 5], both, 201)],
      { email: 'email3', phone: 'phone3' },
      ['created twice'],
    ],
    [
      '201 four times, one after the other, for an erasure that was repeated once',
      [
        post(1, [0, 1], ['email'], 201),
        repeated(erase(2, [2, 9])),
        post(3, [3, 4], ['email'], 201),
        post(4, [5, 6], ['email'], 201),
        post(5, [7, 8], ['email'], 201),
      ],
      { email: 'email5' },
      ['created twice'],
    ],
    [
      '404 for a customer',
      [post(1, [0, 1], both, 201), erase(2, [2, 3], 404)],
      { email: 'email1', phone: 'phone1' },
      ['forgotten'],
    ],
  ];
  test.each(cases)('%s', (_title, sent, row, rules) => {
    expect(rulesOf(sent, row)).toEqual(rules);
  });
});

const DONE: SentEntry = {
  ...{ id: 1, customerId: 'a', fields: ['email'], erases: false, sentAt: 10, answeredAt: 11 },
  ...{ outcome: 'acknowledged', status: 201 },
};

test.each<[string, SentEntry[], number | undefined, number]>([
  ['that was acknowledged without a fault is a finding', [DONE], 9, 1],
  ['with an unknown outcome is allowed', [DONE, { ...DONE, outcome: 'unknown' }], 9, 0],
  ['that was refused is allowed', [{ ...DONE, outcome: 'refused' }], 9, 0],
  ['that was sent twice is allowed', [{ ...DONE, repeats: 1 }], 9, 0],
  ['from before the end of the faults is allowed', [DONE], 11, 0],
  ['is allowed if the faults have no end', [DONE], undefined, 0],
])('a claim of an entry %s', (_title, all, faultFreeSince, findings) => {
  expect(checkClaims(new Set(['a']), new Map([['a', all]]), faultFreeSince)).toHaveLength(findings);
});

const SOME_FIELDS = ['email', 'phone', 'firstName'] as const satisfies Field[];

const drawEntry = fc.record({
  sentAt: fc.integer({ min: 0, max: 11 }),
  tookMs: fc.integer({ min: 1, max: 6 }),
  kind: fc.constantFrom('erases' as const, 'gives' as const, 'gives' as const),
  fields: fc.subarray([...SOME_FIELDS], { minLength: 1 }),
  outcome: fc.constantFrom('unknown' as const, 'acknowledged' as const, 'acknowledged' as const),
  batch: fc.option(fc.constantFrom(1, 2), { nil: undefined }),
});

/** The entries of a batch have the times of its first entry. No two events have the same time. */
const drawEntries = fc.array(drawEntry, { minLength: 1, maxLength: 4 }).map((drawn) =>
  drawn.map(({ kind, fields, batch, ...own }, i): SentEntry => {
    const erases = kind === 'erases';
    const leader = drawn.findIndex(
      (other) => !erases && batch !== undefined && other.batch === batch && other.kind === kind,
    );
    const { sentAt, tookMs, outcome } = drawn[leader] ?? own;
    const start = sentAt + (leader < 0 ? i : leader) / 100;
    return {
      ...{ id: i + 1, customerId: 'a', fields: erases ? [] : fields, erases, outcome, sentAt: start },
      answeredAt: outcome === 'unknown' ? Number.POSITIVE_INFINITY : start + tookMs + 0.005,
      status: outcome === 'unknown' ? 0 : 202,
      ...(leader >= 0 && { batch }),
    };
  }),
);

/** All orders of the entries that respect `precedes`. */
function* toOrders(left: SentEntry[], order: SentEntry[] = []): Generator<SentEntry[]> {
  if (left.length === 0) yield order;
  for (const next of left) {
    const others = left.filter((sent) => sent !== next);
    if (!others.some((sent) => precedes(sent, next))) yield* toOrders(others, [...order, next]);
  }
}

function toRow(order: SentEntry[]): Row {
  let row: Row = {};
  for (const { id, erases, fields } of order) {
    row = erases ? {} : { ...row, ...Object.fromEntries(fields.map((field) => [field, toValue(id, field)])) };
  }
  return row;
}

const toKey = (row: Row) => SOME_FIELDS.map((field) => row[field] ?? '').join();

function toSubsets([first, ...others]: SentEntry[]): SentEntry[][] {
  if (!first) return [[]];
  return toSubsets(others).flatMap((some) => [some, [first, ...some]]);
}

/** All rows that consist of values that entries gave. */
function toCandidates(all: SentEntry[]): Row[] {
  return SOME_FIELDS.reduce<Row[]>(
    (rows, field) => {
      const givers = all.filter(({ fields }) => fields.includes(field));
      return rows.flatMap((row) => [row, ...givers.map(({ id }) => ({ ...row, [field]: toValue(id, field) }))]);
    },
    [{}],
  );
}

describe('of all rows that a few entries could give,', () => {
  test('the check finds those that no order gives, and no others', () => {
    fc.assert(
      fc.property(drawEntries, (all) => {
        const certain = all.filter(({ outcome }) => outcome === 'acknowledged');
        const unknown = all.filter(({ outcome }) => outcome === 'unknown');
        const possible = new Set<string>();
        for (const some of toSubsets(unknown)) {
          for (const order of toOrders([...certain, ...some])) possible.add(toKey(toRow(order)));
        }
        for (const row of toCandidates(all)) {
          expect({ row, found: checkCustomer('a', all, row).map(({ rule }) => rule) }).toEqual({
            row,
            found: possible.has(toKey(row)) ? [] : ['lost'],
          });
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

const sent = (sentAt: number, answeredAt: number, status: number, erases = false): SentEntry => ({
  ...{ id: sentAt, customerId: 'a', fields: erases ? [] : ['email'], erases, sentAt, answeredAt, status },
  outcome: status === 0 ? 'unknown' : 'acknowledged',
});
const NEVER = Number.POSITIVE_INFINITY;

test.each<[string, SentEntry[], number]>([
  ['a new customer', [sent(0, 1, 202), sent(2, 3, 202)], 1],
  ['no customer whose first answer is a 201', [sent(0, 1, 201), sent(2, 3, 202)], 0],
  ['each life after an erasure', [sent(0, 1, 202), sent(2, 3, 202, true), sent(4, 5, 202)], 2],
  ['no customer whose earlier entry has an unknown outcome', [sent(0, NEVER, 0), sent(2, 3, 202)], 0],
  ['no customer if an erasure overlaps', [sent(0, 1, 201), sent(2, 5, 202, true), sent(3, 4, 202)], 0],
])('a 202 counts as the first of %s', (_title, all, count) => {
  expect(findUnknownFirsts(all)).toHaveLength(count);
});
