import type { Customer } from './customer.js';
import { InvalidEntryError } from './errors.js';

const MAX_BYTES = 16 * 1024;

/** The entry as JSON, as it is now. @throws InvalidEntryError where it is none or too large; the server checks the rest */
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
    // What JSON.stringify says may quote the customer.
    throw new InvalidEntryError('body must be valid JSON', { statusCode: 400 });
  }
}
