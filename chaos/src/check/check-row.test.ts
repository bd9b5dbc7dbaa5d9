import { describe, expect, test } from '@jest/globals';
import type { Field } from '@opm/core';
import fc from 'fast-check';
import { type Sent, toValue } from '../load/ledger.js';
import { checkCustomer, type Row } from './check-customer.js';
import { precedes } from './precedes.js';

const SOME_FIELDS = ['email', 'phone', 'firstName'] as const satisfies Field[];

const drawEntry = fc.record({
  sentAt: fc.integer({ min: 0, max: 11 }),
  tookMs: fc.integer({ min: 1, max: 6 }),
  kind: fc.constantFrom('erases' as const, 'gives' as const, 'gives' as const),
  fields: fc.subarray([...SOME_FIELDS], { minLength: 1 }),
  outcome: fc.constantFrom('unknown' as const, 'acknowledged' as const, 'acknowledged' as const),
  batch: fc.option(fc.constantFrom(1, 2), { nil: undefined }),
});

/** All entries of a batch are sent and answered with the first of them; no two events are at the same time. */
const drawEntries = fc.array(drawEntry, { minLength: 1, maxLength: 4 }).map((drawn) =>
  drawn.map(({ kind, fields, batch, ...own }, i): Sent => {
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

/** Every order that is one. */
function* toOrders(left: Sent[], order: Sent[] = []): Generator<Sent[]> {
  if (left.length === 0) yield order;
  for (const next of left) {
    const others = left.filter((sent) => sent !== next);
    if (!others.some((sent) => precedes(sent, next))) yield* toOrders(others, [...order, next]);
  }
}

function toRow(order: Sent[]): Row {
  let row: Row = {};
  for (const { id, erases, fields } of order) {
    row = erases ? {} : { ...row, ...Object.fromEntries(fields.map((field) => [field, toValue(id, field)])) };
  }
  return row;
}

const toKey = (row: Row) => SOME_FIELDS.map((field) => row[field] ?? '').join();

function toSubsets([first, ...others]: Sent[]): Sent[][] {
  if (!first) return [[]];
  return toSubsets(others).flatMap((some) => [some, [first, ...some]]);
}

/** Every row of values that somebody gave. */
function toCandidates(all: Sent[]): Row[] {
  return SOME_FIELDS.reduce<Row[]>(
    (rows, field) => {
      const givers = all.filter(({ fields }) => fields.includes(field));
      return rows.flatMap((row) => [row, ...givers.map(({ id }) => ({ ...row, [field]: toValue(id, field) }))]);
    },
    [{}],
  );
}

describe('of all rows that a few entries could leave,', () => {
  test('those that no order of them leaves are found, and no others', () => {
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
