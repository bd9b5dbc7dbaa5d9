import type { Field } from '@opm/core';
import type { Sent } from '../load/ledger.js';
import { checkRow } from './check-row.js';
import type { CustomerRule, Finding } from './finding.js';
import { precedes } from './precedes.js';

/** The fields that a customer's row holds; none where there is no row. */
export type Row = Partial<Record<Field, string>>;

/** A finding about a customer whom everybody knows. @param at when the entry was sent that it is about */
export type Report = (rule: CustomerRule, at: number, what: string) => void;

/**
 * Compares what is stored of one customer, and what was answered, with everything that was sent about them. A 202 where a
 * 201 could be expected is right here, for an outage excuses it; `check-calm.ts` looks at that where there is none.
 */
export function checkCustomer(customerId: string, all: Sent[], row: Row): Finding[] {
  const findings: Finding[] = [];
  const report: Report = (rule, at, what) => findings.push({ rule, at, customerId, what });
  checkRow(all, row, report);
  checkStatuses(all, report);
  return findings;
}

/** Every 201 but the first, and every 404, takes an erasure since the customer was last known to exist. */
function checkStatuses(all: Sent[], report: Report): void {
  const erasures = all.filter(({ erases, outcome }) => erases && outcome !== 'refused');
  const entries = all.filter(({ erases, outcome }) => !erases && outcome === 'acknowledged');
  const created = entries.filter(({ status }) => status === 201).toSorted((a, b) => a.sentAt - b.sentAt);
  const isErasedBetween = (known: Sent, end: number) =>
    erasures.some((erasure) => !precedes(erasure, known) && erasure.sentAt <= end);

  for (const sent of created) {
    const known = findLastBefore(sent, entries);
    if (known && !isErasedBetween(known, sent.answeredAt)) {
      const what = `${sent.id} is a 201, though ${known.id} had made the customer (${known.status})`;
      report('created twice', sent.sentAt, what);
    }
  }
  for (const [i, sent] of created.entries()) {
    const next = created[i + 1];
    if (!next || precedes(sent, next)) continue;
    if (!isErasedBetween(sent, Math.max(sent.answeredAt, next.answeredAt))) {
      report('created twice', next.sentAt, `${sent.id} and ${next.id}, which overlap, are both a 201`);
    }
  }
  const erased = erasures.reduce((times, { repeats = 0 }) => times + 1 + repeats, 0);
  if (created.length > erased + 1) {
    const what = `${created.length} are a 201, and the customer was erased ${erased} times at most`;
    report('created twice', created.at(-1)?.sentAt ?? 0, what);
  }
  for (const sent of all.filter(({ erases, status }) => erases && status === 404)) {
    const known = findLastBefore(sent, entries);
    if (known && !isErasedBetween(known, sent.answeredAt)) {
      report('forgotten', sent.sentAt, `${sent.id} is a 404, though ${known.id} had made the customer`);
    }
  }
}

/** Of those that were answered before it was sent, the one that was sent last. */
function findLastBefore(sent: Sent, entries: Sent[]): Sent | undefined {
  let last: Sent | undefined;
  for (const entry of entries) {
    if (precedes(entry, sent) && (!last || entry.sentAt > last.sentAt)) last = entry;
  }
  return last;
}
