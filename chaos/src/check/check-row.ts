import { FIELDS, type Field } from '@opm/core';
import { parseValue, type Sent } from '../load/ledger.js';
import type { Report, Row } from './check-customer.js';
import { precedes } from './precedes.js';

/** The entry that each field is as it left it: one that gave it, or an erasure. */
type Writers = Map<Field, Sent>;

/**
 * Senders overlap, so there is more than one right row: whatever some order of the entries explains in which an entry
 * that was answered before another one was sent comes first (linearizability: Herlihy and Wing, 1990). What nobody knows
 * the fate of may have happened some time after it was sent, or never.
 */
export function checkRow(all: Sent[], row: Row, report: Report): void {
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
    const why = writer?.fields.includes(field) ? `was refused (${writer.status})` : 'nobody sent';
    report('wrong', (writer ?? all.at(-1))?.sentAt ?? 0, `${field} is ${value}, which ${why}`);
  }
  if (isWrong || isExplained(all, writers)) return;
  const parts = [...writers].map(([field, { id }]) => `${field} of ${id}`);
  const last = all.findLast(({ outcome }) => outcome === 'acknowledged');
  report('lost', last?.sentAt ?? 0, `no order of the entries explains ${parts.join(', ') || 'that there is nothing'}`);
}

/** All fields that were given and are not there have the same writer: the last erasure. */
function isExplained(all: Sent[], writers: Writers): boolean {
  const acknowledged = all.filter(({ outcome }) => outcome === 'acknowledged');
  const given = new Set([...acknowledged, ...writers.values()].flatMap(({ fields }) => fields));
  const erased = [...given].filter((field) => !writers.has(field));
  if (erased.length === 0) return haveOrder(writers, acknowledged);
  const erasures = all.filter(({ erases, outcome }) => erases && outcome !== 'refused');
  return erasures.some((erasure) =>
    haveOrder(new Map([...erased.map((field) => [field, erasure] as const), ...writers]), acknowledged),
  );
}

/** Whether these may all be the last ones of their fields. */
function haveOrder(writers: Writers, acknowledged: Sent[]): boolean {
  /** Then so is what precedes an entry that wrote a field and was not the last one to. */
  const isBefore = (a: Sent, b: Sent) =>
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

const writes = ({ erases, fields }: Sent, field: Field) => erases || fields.includes(field);
