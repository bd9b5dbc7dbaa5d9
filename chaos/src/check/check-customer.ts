import { FIELDS, type Field } from '@opm/core';
import { parseValue, type SentEntry } from '../load/ledger.js';

/** Rules about one customer. */
type CustomerRule =
  /**
   * A row that no order of the entries explains: an acknowledged entry has no effect or only half of it, or an older
   * one won.
   */
  | 'lost'
  /** A value that was never sent, or whose entry was refused. */
  | 'wrong'
  /** 201 for a customer who existed. */
  | 'created twice'
  /** 404 for a customer who existed. */
  | 'forgotten'
  /** A receipt that the API or the row contradicts. */
  | 'receipt';

/** Rules about the whole stack. */
export type StackRule =
  /** Jobs, claims, counts or dead letters that should be gone. */
  | 'left behind'
  /** A process that exited by itself, did not exit when asked to, or exited with an error. */
  | 'process'
  /** An answer that no fault excuses. */
  | 'answer'
  /** The stack did not recover, or not in time. */
  | 'recovery'
  /** More memory than the backlog explains. */
  | 'memory';

/** A broken promise. `at`: when it was found, or when the entry in question was sent, in ms on the ledger's clock. */
export type Finding = { rule: CustomerRule | StackRule; at: number; customerId?: string; what: string };

/** The fields of a customer's row; empty if there is no row. */
export type Row = Partial<Record<Field, string>>;

/**
 * Reports a finding about the customer.
 * @param at when the entry in question was sent
 */
export type Report = (rule: CustomerRule, at: number, what: string) => void;

/**
 * Compares a customer's row and answers with everything that was sent about the customer. Accepts a 202 instead of a
 * 201, which an outage excuses; `check-fault-free.ts` checks that without faults.
 */
export function checkCustomer(customerId: string, all: SentEntry[], row: Row): Finding[] {
  const findings: Finding[] = [];
  const report: Report = (rule, at, what) => findings.push({ rule, at, customerId, what });
  checkRow(all, row, report);
  checkStatuses(all, report);
  return findings;
}

/**
 * Every 201 after the first one, and every 404, needs an erasure after the last entry that proves that the customer
 * exists.
 */
function checkStatuses(all: SentEntry[], report: Report): void {
  const erasures = all.filter(({ erases, outcome }) => erases && outcome !== 'refused');
  const entries = all.filter(({ erases, outcome }) => !erases && outcome === 'acknowledged');
  const created = entries.filter(({ status }) => status === 201).toSorted((a, b) => a.sentAt - b.sentAt);
  const isErasedBetween = (known: SentEntry, end: number) =>
    erasures.some((erasure) => !precedes(erasure, known) && erasure.sentAt <= end);

  for (const sent of created) {
    const known = findLastBefore(sent, entries);
    if (known && !isErasedBetween(known, sent.answeredAt)) {
      const what = `${sent.id} is a 201 although ${known.id} had created the customer (${known.status})`;
      report('created twice', sent.sentAt, what);
    }
  }
  for (const [i, sent] of created.entries()) {
    const next = created[i + 1];
    if (!next || precedes(sent, next)) continue;
    if (!isErasedBetween(sent, Math.max(sent.answeredAt, next.answeredAt))) {
      report('created twice', next.sentAt, `the overlapping entries ${sent.id} and ${next.id} are both a 201`);
    }
  }
  const erased = erasures.reduce((times, { repeats = 0 }) => times + 1 + repeats, 0);
  if (created.length > erased + 1) {
    const what = `${created.length} entries are a 201, but the customer was erased at most ${erased} times`;
    report('created twice', created.at(-1)?.sentAt ?? 0, what);
  }
  for (const sent of all.filter(({ erases, status }) => erases && status === 404)) {
    const known = findLastBefore(sent, entries);
    if (known && !isErasedBetween(known, sent.answeredAt)) {
      report('forgotten', sent.sentAt, `${sent.id} is a 404 although ${known.id} had created the customer`);
    }
  }
}

/** The entry that was sent last, of those answered before `sent` was sent. */
function findLastBefore(sent: SentEntry, entries: SentEntry[]): SentEntry | undefined {
  let last: SentEntry | undefined;
  for (const entry of entries) {
    if (precedes(entry, sent) && (!last || entry.sentAt > last.sentAt)) last = entry;
  }
  return last;
}

/**
 * How long after it was sent an entry may still take effect if its outcome is unknown or it was sent more than once. An
 * ingress drops an entry within a second; whatever delays an entry before that, such as a frozen process, lasts less
 * than minutes.
 */
const LATEST_MS = 5 * 60_000;

/** Whether `a` certainly has a lower version than `b`, if it has one at all. */
export function precedes(a: SentEntry, b: SentEntry): boolean {
  if (a.batch !== undefined && a.batch === b.batch) return a.id < b.id && !a.repeats;
  return isDecidedAt(a) < b.sentAt;
}

/**
 * When the entry can no longer get a version. An acknowledged entry has its version before the answer. With an
 * idempotency key the first accepted attempt decides, so repeats change nothing.
 */
function isDecidedAt({ outcome, repeats, sentAt, answeredAt, knownAt }: SentEntry): number {
  if (knownAt !== undefined && !repeats) return knownAt;
  if (outcome !== 'unknown' && !repeats) return answeredAt;
  return (answeredAt === Number.POSITIVE_INFINITY ? sentAt : answeredAt) + LATEST_MS;
}

/**
 * The entries that certainly were the customer's first one, or the first one after an erasure, and were answered 202.
 */
export function findUnknownFirsts(all: SentEntry[]): SentEntry[] {
  const possible = all.filter(({ outcome }) => outcome !== 'refused');
  const erasures = possible.filter(({ erases, outcome }) => erases && outcome === 'acknowledged');
  const found: SentEntry[] = [];
  /** When all earlier entries are decided. */
  let decidedAt = Number.NEGATIVE_INFINITY;
  for (const entry of possible.filter(({ erases }) => !erases).toSorted((a, b) => a.sentAt - b.sentAt)) {
    const isFirst =
      decidedAt === Number.NEGATIVE_INFINITY ||
      erasures.some((erasure) => decidedAt < erasure.sentAt && precedes(erasure, entry));
    if (isFirst && entry.outcome === 'acknowledged' && entry.status === 202) found.push(entry);
    decidedAt = Math.max(decidedAt, isDecidedAt(entry));
  }
  return found;
}

/**
 * Checks the claims that are left when all jobs are done. A claim may belong only to a refused entry, to one with an
 * unknown outcome, or to one that was in flight during a fault, which may have made settling fail.
 * @param faultFreeSince when the stack had recovered from the last fault, in ms on the ledger's clock; undefined if it
 * has not
 */
export function checkClaims(
  claims: Set<string>,
  customers: Map<string, SentEntry[]>,
  faultFreeSince = Number.POSITIVE_INFINITY,
): Finding[] {
  const findings: Finding[] = [];
  for (const customerId of claims) {
    const all = customers.get(customerId) ?? [];
    const last = all.at(-1);
    const isSettled = all.every(({ outcome, repeats }) => outcome === 'acknowledged' && !repeats);
    if (!last || !isSettled || last.sentAt < faultFreeSince) continue;
    findings.push({ rule: 'left behind', at: last.sentAt, customerId, what: 'a claim although all entries are done' });
  }
  return findings;
}

/** The entry that wrote each field last: one that gave the field, or an erasure. */
type Writers = Map<Field, SentEntry>;

/**
 * Checks the row. Senders overlap, so several rows can be right: every row that some order of the entries explains, if
 * an entry that was answered before another one was sent comes first (linearizability: Herlihy and Wing, 1990). An
 * entry with an unknown outcome may have taken effect some time after it was sent, or never.
 */
function checkRow(all: SentEntry[], row: Row, report: Report): void {
  const writers: Writers = new Map();
  let isWrong = false;
  for (const field of FIELDS) {
    const value = row[field];
    if (value === undefined) continue;
    const id = parseValue(value, field);
    const writer = all.find((sent) => sent.id === id);
    if (writer?.fields.includes(field) && writer.outcome !== 'refused') {
      writers.set(field, writer);
      continue;
    }
    isWrong = true;
    const why = writer?.fields.includes(field) ? `was refused (${writer.status})` : 'no client sent';
    report('wrong', (writer ?? all.at(-1))?.sentAt ?? 0, `${field} is ${value}, which ${why}`);
  }
  if (isWrong || isExplained(all, writers)) return;
  const parts = [...writers].map(([field, { id }]) => `${field} of ${id}`);
  const last = all.findLast(({ outcome }) => outcome === 'acknowledged');
  report('lost', last?.sentAt ?? 0, `no order of the entries explains ${parts.join(', ') || 'that there is no row'}`);
}

/** The last erasure is the writer of all fields that were given and are missing. */
function isExplained(all: SentEntry[], writers: Writers): boolean {
  const acknowledged = all.filter(({ outcome }) => outcome === 'acknowledged');
  const given = new Set([...acknowledged, ...writers.values()].flatMap(({ fields }) => fields));
  const erased = [...given].filter((field) => !writers.has(field));
  if (erased.length === 0) return haveOrder(writers, acknowledged);
  const erasures = all.filter(({ erases, outcome }) => erases && outcome !== 'refused');
  return erasures.some((erasure) =>
    haveOrder(new Map([...erased.map((field) => [field, erasure] as const), ...writers]), acknowledged),
  );
}

/** Whether an order exists in which each of these is the last writer of its field. */
function haveOrder(writers: Writers, acknowledged: SentEntry[]): boolean {
  /** `a` also comes before the last writer of a field if it precedes another entry that wrote the field. */
  const isBefore = (a: SentEntry, b: SentEntry) =>
    (a !== b && precedes(a, b)) ||
    [...writers].some(
      ([field, writer]) =>
        writer === b &&
        ((a !== b && writes(a, field)) ||
          acknowledged.some((other) => other !== b && writes(other, field) && precedes(a, other))),
    );
  const left = new Set(writers.values());
  if ([...left].some((writer) => isBefore(writer, writer))) return false;
  while (left.size > 0) {
    const first = [...left].find((b) => ![...left].some((a) => isBefore(a, b)));
    if (!first) return false;
    left.delete(first);
  }
  return true;
}

const writes = ({ erases, fields }: SentEntry, field: Field) => erases || fields.includes(field);
