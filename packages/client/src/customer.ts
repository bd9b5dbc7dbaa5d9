import { type Answer, InvalidEntryError } from './errors.js';

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
 * The path of a customer.
 * @throws InvalidEntryError for an id that cannot be in a path; the server validates the rest
 */
export function toPath(customerId: string | number): string {
  if (customerId === '') {
    throw new InvalidEntryError('path/customerId must NOT have fewer than 1 characters', { statusCode: 400 });
  }
  try {
    return `/entry/${encodeURIComponent(customerId)}`;
  } catch {
    throw new InvalidEntryError('path/customerId must not contain U+0000 or unpaired surrogates', { statusCode: 400 });
  }
}

/** Whether a 404 is about the customer, not about the route. */
export function isUnknownCustomer({ statusCode, body }: Answer): boolean {
  const message = (body as { message?: unknown } | null | undefined)?.message;
  return statusCode === 404 && typeof message === 'string' && message.startsWith('customer ');
}
