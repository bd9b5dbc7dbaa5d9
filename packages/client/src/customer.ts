import { type Answer, InvalidEntryError, toError } from './errors.js';

/**
 * The part of an AbortSignal that the client uses. Its own type, so that yours need neither the DOM nor @types/node.
 */
export interface Signal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

export interface CallOptions {
  /** Rejects the call with the signal's reason. An entry in flight may still be accepted. */
  signal?: Signal | undefined;
}

/** A customer to send. A field that is missing, `null` or `''` keeps its stored value. */
export interface Customer {
  /** Your id: 1 to 255 characters, or a safe integer; 7519 and '7519' are the same customer. */
  customerId: string | number;
  /** At most 320 characters. Each entry needs an email or a phone. */
  customerEmail?: string | null | undefined;
  /** At most 64 characters. */
  customerPhone?: string | null | undefined;
  /** At most 255 characters. */
  customerFirstName?: string | null | undefined;
  /** At most 255 characters. */
  customerLastName?: string | null | undefined;
  /** At most 64 characters. */
  customerIP?: string | null | undefined;
}

/** A stored customer. Unknown fields are `null`. */
export interface StoredCustomer {
  customerId: string;
  customerEmail: string | null;
  customerPhone: string | null;
  customerFirstName: string | null;
  customerLastName: string | null;
  customerIP: string | null;
  /** UTC, such as 2026-11-24T17:00:00.000Z. */
  createdAt: string | null;
  updatedAt: string | null;
}

export interface FoundCustomer {
  customer: StoredCustomer;
  /** True while the newest accepted entry is not stored yet. `customer` does not include it. */
  pending: boolean;
  /** The newest entries of this customer that could not be stored and that no newer entry covers, if there are any. */
  refused?: RefusedEntry[];
}

/** Result of `send`. */
export interface SendResult {
  /** True if the customer was new. */
  created: boolean;
  /** For `receiptState`. Missing if the server is older than receipts. */
  receipt?: string;
}

/** Result of `erase`. */
export interface EraseResult {
  /** False if there was nothing to erase. */
  erased: boolean;
  /** For `receiptState`. Missing if there was nothing to erase, or the server is older than receipts. */
  receipt?: string;
}

/** An accepted entry that our database then refused. */
export interface RefusedEntry {
  customerId: string;
  receipt: string;
  /** Such as VALUE_TOO_LONG. The partner guide lists them; later servers may have more. */
  code: string;
  message: string;
  /** The property that caused it, such as customerEmail, if it is known. */
  field?: string;
  /** The idempotency key of its request, if there was one. The client makes one for each batch. */
  idempotencyKey?: string;
  /** The x-request-id that its request was given, if any. */
  requestId?: string;
  /** UTC, such as 2026-11-24T17:00:00.000Z. */
  refusedAt: string;
  /**
   * `replayed`: we try to store it again. `discarded`: we do not. `stored`: it is stored by now, or newer ones cover
   * it.
   */
  state: 'refused' | 'replayed' | 'discarded' | 'stored';
}

/**
 * What became of an accepted entry or erasure. `unknown`: nothing is known of it, for example after a loss of our
 * queue.
 */
export type ReceiptState = { state: 'stored' | 'pending' | 'unknown' } | { state: 'refused'; refused: RefusedEntry };

/**
 * What became of a project's entries on a day (UTC). Counts are some seconds late, and a crash of ours may lose some.
 */
export interface DayUsage {
  /** Such as 2026-11-24. */
  day: string;
  /** `created` and `updated`. */
  accepted: number;
  created: number;
  updated: number;
  erased: number;
  /** Not accepted: 400, 413, 415 and 422; 429; 500 and 503. */
  refused: { invalid: number; limited: number; unavailable: number };
  /**
   * Accepted entries that our database rejected, even if we stored them later. Each failed attempt to store one counts.
   */
  notStored: number;
}

/** An active key of the project. */
export interface ProjectKey {
  /** The first characters of the key. */
  hint: string;
  label: string | null;
  scopes: ('write' | 'read' | 'erase')[];
  /** IP addresses and CIDR blocks that may use the key; empty if any address may. */
  addresses: string[];
  /** UTC, such as 2026-11-24T17:00:00.000Z. */
  createdAt: string;
  expiresAt: string | null;
  /** Some seconds late. */
  lastUsedAt: string | null;
}

/** An entry or erasure to ask about: its customer, and the receipt of its result. */
export interface AskedReceipt {
  customerId: string | number;
  receipt: string;
}

const MAX_BYTES = 16 * 1024;

/**
 * Serializes an entry.
 * @throws InvalidEntryError if it is not an object or is too large; the server validates the rest
 */
export function toEntry(customer: Customer): string {
  const entry = stringify(customer);
  if (entry === undefined || !entry.startsWith('{')) {
    throw new InvalidEntryError('body must be object', { statusCode: 400 });
  }
  if (Buffer.byteLength(entry) > MAX_BYTES) {
    throw new InvalidEntryError('body must not be larger than 16 KiB', { statusCode: 413 });
  }
  return entry;
}

function stringify(customer: Customer): string | undefined {
  try {
    return JSON.stringify(customer);
  } catch {
    // The error of JSON.stringify may quote the customer.
    throw new InvalidEntryError('body must be valid JSON', { statusCode: 400 });
  }
}

/**
 * The id as the server knows it. Converting any other value, such as `undefined`, would name another customer.
 * @throws InvalidEntryError unless it is a string or a safe integer, as in the body of an entry
 */
export function toId(customerId: string | number): string {
  if (typeof customerId === 'string' || Number.isSafeInteger(customerId)) return String(customerId);
  throw new InvalidEntryError('path/customerId must be a string or a safe integer', { statusCode: 400 });
}

/**
 * The path of a customer.
 * @throws InvalidEntryError for an id that cannot be in a path; the server validates the rest
 */
export function toPath(customerId: string | number): string {
  const id = toId(customerId);
  if (id === '') {
    throw new InvalidEntryError('path/customerId must NOT have fewer than 1 characters', { statusCode: 400 });
  }
  try {
    return `/entry/${encodeURIComponent(id)}`;
  } catch {
    throw new InvalidEntryError('path/customerId must not contain U+0000 or unpaired surrogates', { statusCode: 400 });
  }
}

/** The path of a receipt. @throws InvalidEntryError as `toPath` does */
export function toReceiptPath(customerId: string | number, receipt: string): string {
  if (typeof receipt !== 'string' || !/^[0-9a-z]+$/.test(receipt)) {
    throw new InvalidEntryError('path/receipt must be a receipt of this customer', { statusCode: 400 });
  }
  return `${toPath(customerId)}/receipts/${receipt}`;
}

/** The receipt in an answer, for a result: nothing if the server sent none. */
export function withReceipt(receipt: unknown): { receipt?: string } {
  return typeof receipt === 'string' ? { receipt } : {};
}

/** Whether a 404 is about the customer, not about the route. */
export function isUnknownCustomer({ statusCode, body }: Answer): boolean {
  const message = (body as { message?: unknown } | null | undefined)?.message;
  return statusCode === 404 && typeof message === 'string' && message.startsWith('customer ');
}

/** Checks the body too: another server may answer 200 to any request. */
export function isPong(body: unknown): boolean {
  return (body as { message?: unknown } | null | undefined)?.message === 'pong';
}

export function isFound(body: unknown): body is FoundCustomer {
  const { customer, pending } = (body ?? {}) as Partial<Record<keyof FoundCustomer, unknown>>;
  return typeof customer === 'object' && customer !== null && typeof pending === 'boolean';
}

export function isReceiptState(body: unknown): body is ReceiptState {
  const { state, refused } = (body ?? {}) as { state?: unknown; refused?: unknown };
  return state === 'refused' ? isObject(refused) : state === 'stored' || state === 'pending' || state === 'unknown';
}

export function isReceiptStates(body: unknown, count: number): body is { results: ReceiptState[] } {
  const { results } = (body ?? {}) as { results?: unknown };
  return Array.isArray(results) && results.length === count && results.every(isReceiptState);
}

/**
 * Adds `first` to the index in an error message such as `body/1/receipt …`: the server counts from the request's start.
 */
export function withPlace(body: unknown, first: number): unknown {
  const { message, ...rest } = (body ?? {}) as { message?: unknown };
  const toPlace = (_: string, place: string) => `body/${first + Number(place)}`;
  return { ...rest, message: typeof message === 'string' ? message.replace(/^body\/(\d+)/, toPlace) : message };
}

/** Removes `statusCode` from the answer about a receipt. */
export const toState = (answer: ReceiptState): ReceiptState =>
  answer.state === 'refused' ? { state: 'refused', refused: answer.refused } : { state: answer.state };

/** @throws OpmError if the answer does not have a list of objects with this name */
export function readList<T>(answer: Answer, name: string): T[] {
  const list = ((answer.body ?? {}) as Record<string, unknown>)[name];
  if (answer.statusCode === 200 && Array.isArray(list) && list.every(isObject)) return list;
  throw toError(answer);
}

export function isRefusedPage(body: unknown): body is { refused: RefusedEntry[]; cursor: string | null } {
  const { refused, cursor } = (body ?? {}) as { refused?: unknown; cursor?: unknown };
  return Array.isArray(refused) && refused.every(isObject) && (cursor === null || typeof cursor === 'string');
}

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null;

/** @throws TypeError if it is not a time */
export function toTime(since: Date | string): string {
  const time = new Date(since);
  if (Number.isNaN(time.getTime())) throw new TypeError('since must be a Date or an ISO time');
  return time.toISOString();
}

/** @throws TypeError if it is a Date without a time; the server checks strings */
export function toDay(day: Date | string): string {
  if (typeof day === 'string') return day;
  if (Number.isNaN(day.getTime())) throw new TypeError('from and to must be days');
  return day.toISOString().slice(0, 10);
}
