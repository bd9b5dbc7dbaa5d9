import { InvalidEntryError } from './errors.js';
import type { Answer } from './http-transport.js';

/** Of a customer. @throws InvalidEntryError for an id that no path can hold; the server checks the rest */
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

/** A 404 about the customer, and not one about the path. */
export function isUnknownCustomer({ statusCode, body }: Answer): boolean {
  const message = (body as { message?: unknown } | null | undefined)?.message;
  return statusCode === 404 && typeof message === 'string' && message.startsWith('customer ');
}
