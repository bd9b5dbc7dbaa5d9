import { type Field, parseReceipt, type Receipt, type RequestIds, toReceipt } from '@opm/core';
import { FIELD_PROPERTIES } from './entry.js';
import { FAULTS, Fault } from './faults.js';
import { LIMITS } from './limits.js';

/** Why an accepted entry could not be stored. The list is closed, and a code is never reused for another meaning. */
export const REFUSALS = {
  VALUE_TOO_LONG: 'a value is too long for our database, send a shorter one',
  VALUE_INVALID: 'our database does not accept a value, send another one',
  VALUE_CONFLICT: 'a value conflicts with another customer, send another one',
  ENTRY_UNREADABLE: 'our program could not read the entry, send it again',
  STORE_ERROR: 'our database could not store the entry, we will look into it',
} as const;

export type RefusalCode = keyof typeof REFUSALS;

/**
 * `refused`: not stored. `replayed`: we try again. `discarded`: not stored, and never will be. `stored`: it took effect
 * after a replay, or newer entries cover it.
 */
export const REFUSED_STATES = ['refused', 'replayed', 'discarded', 'stored'] as const;

/** An accepted entry that our database refused, as partners see it. */
export type RefusedEntry = RequestIds & {
  customerId: string;
  receipt: string;
  code: RefusalCode;
  message: string;
  /** The property whose value was refused, if the database named it. */
  field?: string;
  refusedAt: Date;
  state: (typeof REFUSED_STATES)[number];
};

/**
 * @param letter `sqlState`: null if the error was not PostgreSQL's; `isReadable`: false if it cannot be read as an
 * entry
 */
export function toRefusedEntry(
  letter: Pick<RefusedEntry, 'customerId' | 'receipt' | 'refusedAt' | 'state'> & {
    sqlState: string | null;
    isReadable: boolean;
    field: Field | undefined;
    requestIds: RequestIds | null;
  },
): RefusedEntry {
  const { customerId, receipt, sqlState, isReadable, field, requestIds, refusedAt, state } = letter;
  const code = isReadable ? toRefusalCode(sqlState) : 'ENTRY_UNREADABLE';
  const named = field && { field: FIELD_PROPERTIES[field].property };
  return { customerId, receipt, code, message: REFUSALS[code], ...named, ...requestIds, refusedAt, state };
}

/** SQLSTATEs and classes (https://www.postgresql.org/docs/current/errcodes-appendix.html). First match applies. */
const BY_SQL_STATE: [RegExp, RefusalCode][] = [
  [/^(22001|54)/, 'VALUE_TOO_LONG'], // too long for its column, or for a row or an index
  [/^(23505|21)/, 'VALUE_CONFLICT'], // unique constraint, cardinality
  [/^(22|23|P0001)/, 'VALUE_INVALID'], // data exception, other constraint, error of a trigger
];

/** Converts an error to the code that the partner sees. @param sqlState null if the error was not PostgreSQL's */
export function toRefusalCode(sqlState: string | null): RefusalCode {
  return BY_SQL_STATE.find(([pattern]) => pattern.test(sqlState ?? ''))?.[1] ?? 'STORE_ERROR';
}

/** The body of GET /entry/{customerId}/receipts/{receipt}. `unknown`: we know no such entry, or no longer. */
export type FateAnswer =
  | { statusCode: 200; state: 'stored' | 'pending' | 'unknown' }
  | { statusCode: 200; state: 'refused'; refused: RefusedEntry };

/** The body of POST /entries/receipts: for each receipt, the body that the single call would have had. */
export type FatesAnswer = { statusCode: 200; results: FateAnswer[] };

/** The body of GET /entries/refused. `cursor` is null on the last page. */
export type RefusedAnswer = { statusCode: 200; refused: RefusedEntry[]; cursor: string | null };

/** The body of the 404 of GET /entry/{customerId}, if entries of the customer are refused. */
export const toUnknownCustomer = (refused: RefusedEntry[]) => ({ ...FAULTS.CUSTOMER_UNKNOWN, refused });

export const RECEIPT_FORM = /^[0-9a-z]{10,14}$/;

/** The receipt of an entry of the customer 7519, for the API's document. */
export const RECEIPT_EXAMPLE = toReceipt({
  customerId: '7519',
  version: Date.parse('2026-11-30T12:00:00Z') * 1_000,
  fields: { email: '', phone: '' },
});

/** Reads the receipt in a path. @throws Fault RECEIPT_INVALID */
export function parseReceiptOf(customerId: string, receipt: unknown): Receipt {
  const parsed = parseReceipt(String(receipt), customerId);
  if (!parsed) throw new Fault('RECEIPT_INVALID');
  return parsed;
}

export const REFUSED_PAGE = { max: 1_000, default: 100 };

/** A place in the list of refused entries: when the dead letter was stored, in microseconds since 1970, and its id. */
type RefusedPlace = { micros: number; id: string };

export const toCursor = ({ micros, id }: RefusedPlace): string => `${micros}-${id}`;

export type RefusedQuery = { since: Date | undefined; before: RefusedPlace | undefined; limit: number };

const MAX_NAME = 40;

/** Reads the query of GET /entries/refused. @throws Fault QUERY_INVALID, whose message names the parameter */
export function parseRefusedQuery(query: Record<string, unknown>): RefusedQuery {
  const { since, cursor, limit } = readQuery(query, ['since', 'cursor', 'limit']);
  return {
    since: since === undefined ? undefined : parseTime(since),
    before: cursor === undefined ? undefined : parseCursor(cursor),
    limit: limit === undefined ? REFUSED_PAGE.default : parseLimit(limit),
  };
}

/** Also takes a date alone: its first moment in UTC. */
export const ISO_TIME = /^(\d{4}-\d\d-\d\d)(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d))?$/;

function parseTime(text: string): Date {
  const [, day] = ISO_TIME.exec(text) ?? [];
  const time = new Date(text);
  // JavaScript reads February 30 as March 2.
  if (!day || !Number.isFinite(time.getTime()) || !isDay(day)) {
    throw invalid('since', 'must be an ISO 8601 time such as 2026-11-30T12:00:00Z');
  }
  return time;
}

export const CURSOR = /^(\d{1,16})-(\d{1,18})$/;

function parseCursor(text: string): RefusedPlace {
  const [, micros, id] = CURSOR.exec(text) ?? [];
  if (!micros || !id || !Number.isSafeInteger(Number(micros))) throw invalid('cursor', 'must be that of an answer');
  return { micros: Number(micros), id };
}

function parseLimit(text: string): number {
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (limit < 1 || limit > REFUSED_PAGE.max) throw invalid('limit', `must be an integer from 1 to ${REFUSED_PAGE.max}`);
  return limit;
}

const invalid = (name: string, message: string) => new Fault('QUERY_INVALID', { message: `query/${name} ${message}` });

/** The parameters of a query. @throws Fault QUERY_INVALID for one that is not in `names` or is given twice */
function readQuery<Name extends string>(query: Record<string, unknown>, names: Name[]): { [N in Name]?: string } {
  for (const [name, value] of Object.entries(query)) {
    const shown = [...name].slice(0, MAX_NAME).join('').toWellFormed();
    if (!names.includes(name as Name)) throw invalid(shown, `is not known, use ${toList(names)}`);
    if (typeof value !== 'string') throw invalid(name, 'must be given once');
  }
  return query as { [N in Name]?: string };
}

const toList = (names: string[]) => `${names.slice(0, -1).join(', ')} or ${names.at(-1)}`;

/** Days (UTC), the first and the last, such as `2026-11-30`. */
export type Days = { from: string; to: string };

/**
 * Reads the query of GET /usage. Without `to`, the last day is that of `now`; without `from`, there are 30 days.
 * @throws Fault QUERY_INVALID
 */
export function parseDays(query: Record<string, unknown>, now: Date): Days {
  const given = readQuery(query, ['from', 'to']);
  for (const [name, value] of Object.entries(given)) {
    if (!isDay(value)) throw invalid(name, 'must be a day such as 2026-11-30');
  }
  const { to = toDay(now), from = addDays(to, 1 - LIMITS.defaultDays) } = given as Partial<Days>;
  if (to < from) throw invalid('to', 'must not be before query/from');
  if (addDays(from, LIMITS.days) <= to) throw invalid('from', `must be less than ${LIMITS.days} days before query/to`);
  return { from, to };
}

const DAY_MS = 24 * 60 * 60 * 1_000;

const toDay = (date: Date): string => date.toISOString().slice(0, 10);
const addDays = (day: string, days: number): string => toDay(new Date(Date.parse(day) + days * DAY_MS));

/** Date parses February 30 as March 2. */
function isDay(text: string): boolean {
  const date = new Date(text);
  return /^[1-9]\d{3}-\d\d-\d\d$/.test(text) && !Number.isNaN(date.getTime()) && toDay(date) === text;
}

/** What became of a project's entries on a day. `accepted` are `created` and `updated`. `notStored`: dead letters. */
export type DayUsage = {
  day: string;
  accepted: number;
  created: number;
  updated: number;
  erased: number;
  refused: { invalid: number; limited: number; unavailable: number };
  notStored: number;
};

type Counted = {
  day: string;
  created: number;
  updated: number;
  erased: number;
  refusedInvalid: number;
  refusedLimited: number;
  refusedUnavailable: number;
  deadLetters: number;
};

/** The body of GET /usage: every day, also those without counts. @param counted the days that have counts */
export function toUsageAnswer({ from, to }: Days, counted: Counted[]): { statusCode: 200; days: DayUsage[] } {
  const byDay = new Map(counted.map((usage) => [usage.day, usage]));
  const days: DayUsage[] = [];
  for (let at = Date.parse(from); at <= Date.parse(to); at += DAY_MS) {
    const day = toDay(new Date(at));
    days.push(toDayUsage(day, byDay.get(day)));
  }
  return { statusCode: 200, days };
}

function toDayUsage(day: string, counted: Partial<Counted> = {}): DayUsage {
  const { created = 0, updated = 0, erased = 0, deadLetters = 0 } = counted;
  const { refusedInvalid = 0, refusedLimited = 0, refusedUnavailable = 0 } = counted;
  const refused = { invalid: refusedInvalid, limited: refusedLimited, unavailable: refusedUnavailable };
  return { day, accepted: created + updated, created, updated, erased, refused, notStored: deadLetters };
}
