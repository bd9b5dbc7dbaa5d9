import { describe, expect, test } from '@jest/globals';
import type { Sent } from '../load/ledger.js';
import { checkCustomer, type Row } from './check-customer.js';

const SENT: Sent = {
  id: 0,
  customerId: 'a',
  fields: [],
  erases: false,
  sentAt: 0,
  answeredAt: Number.POSITIVE_INFINITY,
  outcome: 'unknown',
  status: 0,
};

/** Sent and answered at these times. */
const post = (id: number, [sentAt, answeredAt]: [number, number], fields: Sent['fields'], status = 202): Sent => ({
  ...SENT,
  ...{ id, sentAt, answeredAt, fields, status, outcome: 'acknowledged' },
});
const erase = (id: number, [sentAt, answeredAt]: [number, number], status = 202): Sent => ({
  ...post(id, [sentAt, answeredAt], [], status),
  erases: true,
  outcome: status === 404 ? 'refused' : 'acknowledged',
});
const unknown = (sent: Sent): Sent => ({
  ...sent,
  outcome: 'unknown',
  answeredAt: Number.POSITIVE_INFINITY,
  status: 0,
});
const refused = (sent: Sent): Sent => ({ ...sent, outcome: 'refused', status: 503 });
const repeated = (sent: Sent): Sent => ({ ...sent, repeats: 1 });
const inOneBatch = (...all: Sent[]) => all.map((sent) => ({ ...sent, batch: 7 }));

const rulesOf = (sent: Sent[], row: Row) => checkCustomer('a', sent, row).map(({ rule }) => rule);

describe('what some order of the entries explains is right:', () => {
  const cases: [string, Sent[], Row][] = [
    ['the last one wins', [post(1, [0, 1], ['email']), post(2, [2, 3], ['email'])], { email: 'e2' }],
    ['of two that overlap, either', [post(1, [0, 5], ['email']), post(2, [2, 3], ['email'])], { email: 'e1' }],
    [
      'a field that the last one leaves out stays',
      [post(1, [0, 1], ['email', 'phone']), post(2, [2, 3], ['email'])],
      { email: 'e2', phone: 'p1' },
    ],
    [
      'what is unknown may have come late',
      [unknown(post(1, [0, 1], ['email'])), post(2, [2, 3], ['email'])],
      { email: 'e1' },
    ],
    ['what is unknown may have come to nothing', [unknown(post(1, [0, 1], ['email']))], {}],
    ['what is refused is not there', [refused(post(1, [0, 1], ['email']))], {}],
    ['what is erased is not there', [post(1, [0, 1], ['email']), erase(2, [2, 3])], {}],
    ['an erasure of which nobody knows explains it, too', [post(1, [0, 1], ['email']), unknown(erase(2, [2, 3]))], {}],
    [
      'an erasure that overlaps explains it either way',
      [post(1, [0, 5], ['email']), erase(2, [2, 3])],
      { email: 'e1' },
    ],
    [
      'a customer comes back',
      [post(1, [0, 1], ['email'], 201), erase(2, [2, 3]), post(3, [4, 5], ['phone'], 201)],
      { phone: 'p3' },
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
      { phone: 'p5' },
    ],
    [
      'an erasure that was repeated may take the customer each time',
      [
        post(1, [0, 1], ['email'], 201),
        repeated(erase(2, [2, 7])),
        post(3, [3, 4], ['email'], 201),
        post(4, [5, 6], ['email'], 201),
      ],
      { email: 'e4' },
    ],
    [
      'in a batch the later one wins',
      inOneBatch(post(1, [0, 1], ['email']), post(2, [0, 1], ['email'])),
      { email: 'e2' },
    ],
    [
      'what was repeated may have come late',
      [repeated(post(1, [0, 1], ['email'])), post(2, [2, 3], ['email'])],
      { email: 'e1' },
    ],
    [
      'in a batch that was repeated the earlier one may come again',
      inOneBatch(repeated(post(1, [0, 1], ['email'])), repeated(post(2, [0, 1], ['email']))),
      { email: 'e1' },
    ],
    ['404 after an erasure', [post(1, [0, 1], ['email'], 201), erase(2, [2, 3]), erase(3, [4, 5], 404)], {}],
  ];
  test.each(cases)('%s', (_title, sent, row) => {
    expect(checkCustomer('a', sent, row)).toEqual([]);
  });
});

describe('what no order explains is found:', () => {
  const both = ['email', 'phone'] as const;
  const cases: [string, Sent[], Row, string[]][] = [
    ['no row', [post(1, [0, 1], ['email'])], {}, ['lost']],
    ['a field that is gone', [post(1, [0, 1], both), post(2, [2, 3], ['email'])], { email: 'e2' }, ['lost']],
    [
      'a field that went before what is there came',
      [post(1, [0, 1], both), erase(2, [2, 3]), post(3, [4, 5], ['phone'])],
      { email: 'e1', phone: 'p3' },
      ['lost'],
    ],
    ['a field that an earlier erasure cannot have taken', [erase(1, [0, 1]), post(2, [2, 3], ['email'])], {}, ['lost']],
    [
      'a field that an erasure took, which spared an older one',
      [post(1, [0, 1], ['email']), post(2, [2, 3], ['phone']), erase(3, [4, 5])],
      { email: 'e1' },
      ['lost'],
    ],
    [
      'an older value than a repeated one',
      [post(1, [0, 1], ['email']), repeated(post(2, [2, 3], ['email']))],
      { email: 'e1' },
      ['lost'],
    ],
    ['an older value', [post(1, [0, 1], ['email']), post(2, [2, 3], ['email'])], { email: 'e1' }, ['lost']],
    [
      'an older value of a batch',
      inOneBatch(post(1, [0, 1], ['email']), post(2, [0, 1], ['email'])),
      { email: 'e1' },
      ['lost'],
    ],
    ['a value of nobody', [post(1, [0, 1], ['email'])], { email: 'e2' }, ['wrong']],
    ['a value of another field', [post(1, [0, 1], both)], { email: 'p1', phone: 'p1' }, ['wrong']],
    [
      'a value that was refused',
      [post(1, [0, 1], ['email']), refused(post(2, [2, 3], ['email']))],
      { email: 'e2' },
      ['wrong'],
    ],
    [
      'a field of each of two that gave both',
      [post(1, [0, 5], both), post(2, [1, 4], both)],
      { email: 'e1', phone: 'p2' },
      ['lost'],
    ],
    [
      'half an entry beside an erasure that overlaps',
      [post(1, [0, 5], both, 201), erase(2, [1, 4])],
      { email: 'e1' },
      ['lost'],
    ],
    [
      'an older value that another field betrays',
      [post(1, [0, 4], ['email'], 201), post(2, [1, 9], both), post(3, [5, 8], ['phone'])],
      { email: 'e1', phone: 'p2' },
      ['lost'],
    ],
    [
      'a value of unknown fate that is much older',
      [unknown(post(1, [0, 1], ['email'])), post(2, [1e6, 1e6 + 1], ['email'])],
      { email: 'e1' },
      ['lost'],
    ],
    [
      '201 twice, one after the other',
      [post(1, [0, 1], both, 201), post(2, [2, 3], both, 201)],
      { email: 'e2', phone: 'p2' },
      ['created twice', 'created twice'],
    ],
    [
      '201 twice, at the same time',
      [post(1, [0, 3], both, 201), post(2, [1, 2], both, 201)],
      { email: 'e1', phone: 'p1' },
      ['created twice', 'created twice'],
    ],
    [
      '201 after a 202',
      [post(1, [0, 1], both), post(2, [2, 3], both, 201)],
      { email: 'e2', phone: 'p2' },
      ['created twice'],
    ],
    [
      '201 twice, and an erasure before both',
      [erase(1, [0, 1]), post(2, [2, 3], both, 201), post(3, [4, 5], both, 201)],
      { email: 'e3', phone: 'p3' },
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
      { email: 'e5' },
      ['created twice'],
    ],
    [
      '404 for a customer',
      [post(1, [0, 1], both, 201), erase(2, [2, 3], 404)],
      { email: 'e1', phone: 'p1' },
      ['forgotten'],
    ],
  ];
  test.each(cases)('%s', (_title, sent, row, rules) => {
    expect(rulesOf(sent, row)).toEqual(rules);
  });
});
