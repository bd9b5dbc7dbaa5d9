import type { Sent } from '../load/ledger.js';
import { isDecidedAt, precedes } from './precedes.js';

/** How many lives of the customer, the first one and those after erasures, have certainly begun with a 202. */
export function countUnknownFirsts(all: Sent[]): number {
  const possible = all.filter(({ outcome }) => outcome !== 'refused');
  const erasures = possible.filter(({ erases, outcome }) => erases && outcome === 'acknowledged');
  let count = 0;
  /** When all entries before have been decided. */
  let decidedAt = Number.NEGATIVE_INFINITY;
  for (const entry of possible.filter(({ erases }) => !erases).toSorted((a, b) => a.sentAt - b.sentAt)) {
    const isFirst =
      decidedAt === Number.NEGATIVE_INFINITY ||
      erasures.some((erasure) => decidedAt < erasure.sentAt && precedes(erasure, entry));
    if (isFirst && entry.outcome === 'acknowledged' && entry.status === 202) count++;
    decidedAt = Math.max(decidedAt, isDecidedAt(entry));
  }
  return count;
}
