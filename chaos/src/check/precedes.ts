import type { Sent } from '../load/ledger.js';

/**
 * How long after it was sent an entry of unknown fate, or one that was sent more than once, may still have an effect: an
 * ingress gives an entry up within a second, and nothing that holds it before, a frozen process say, does so for minutes.
 */
const LATEST_MS = 5 * 60_000;

/** Whether the one certainly has the lower version, if it has one at all. */
export function precedes(a: Sent, b: Sent): boolean {
  if (a.batch !== undefined && a.batch === b.batch) return a.id < b.id && !a.repeats;
  return isDecidedAt(a) < b.sentAt;
}

/** From when on it can have no more versions: what is acknowledged has had its own by the time of the answer. */
export function isDecidedAt({ outcome, repeats, sentAt, answeredAt }: Sent): number {
  if (outcome !== 'unknown' && !repeats) return answeredAt;
  return (answeredAt === Number.POSITIVE_INFINITY ? sentAt : answeredAt) + LATEST_MS;
}
