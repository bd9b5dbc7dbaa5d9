import { expect, test } from '@jest/globals';
import { Fault } from '@opm/contract';
import { toRefusal } from './post-entries.js';

test.each([
  [['OVERLOADED', 'QUEUE_UNAVAILABLE'], 'QUEUE_UNAVAILABLE'],
  [['BODY_INVALID', 'OVERLOADED', 'OVERLOADED'], 'OVERLOADED'],
  [['RATE_LIMITED', 'RATE_LIMITED'], 'RATE_LIMITED'],
] as const)(
  'a batch of which no entry is known to be accepted is undecided if any of its entries is: %j',
  (codes, code) => {
    const answers = codes.map((own) => new Fault(own));
    const first = answers.find((answer) => answer.code !== 'BODY_INVALID') as Fault;
    expect(toRefusal(first, answers).code).toBe(code);
  },
);
