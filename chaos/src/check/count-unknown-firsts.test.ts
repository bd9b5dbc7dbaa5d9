import { expect, test } from '@jest/globals';
import type { Sent } from '../load/ledger.js';
import { countUnknownFirsts } from './count-unknown-firsts.js';

const sent = (sentAt: number, answeredAt: number, status: number, erases = false): Sent => ({
  ...{ id: sentAt, customerId: 'a', fields: erases ? [] : ['email'], erases, sentAt, answeredAt, status },
  outcome: status === 0 ? 'unknown' : 'acknowledged',
});
const NEVER = Number.POSITIVE_INFINITY;

test.each<[string, Sent[], number]>([
  ['a customer who is new', [sent(0, 1, 202), sent(2, 3, 202)], 1],
  ['one who is told so', [sent(0, 1, 201), sent(2, 3, 202)], 0],
  ['each life after an erasure', [sent(0, 1, 202), sent(2, 3, 202, true), sent(4, 5, 202)], 2],
  ['nothing that may have been the second', [sent(0, NEVER, 0), sent(2, 3, 202)], 0],
  ['nothing beside an erasure', [sent(0, 1, 201), sent(2, 5, 202, true), sent(3, 4, 202)], 0],
])('a 202 counts as the first of %s', (_title, all, count) => {
  expect(countUnknownFirsts(all)).toBe(count);
});
