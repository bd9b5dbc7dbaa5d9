import { Fault } from './faults.js';

/** Bare, as it counts. */
export const IDEMPOTENCY_KEY = /^[!-~]{1,255}$/;
/** A string as structured fields (RFC 9651) have it: only `"` and `\` are escaped. */
const QUOTED = /^"((?:[^"\\]|\\["\\])*)"$/;

/**
 * Reads the header Idempotency-Key, bare as most clients send it, or in quotes as the draft of the IETF has it: both are
 * the same key.
 * @param values one for each time that the header was given
 * @throws Fault IDEMPOTENCY_KEY_INVALID or IDEMPOTENCY_KEY_REPEATED
 */
export function parseIdempotencyKey(values: string[]): string {
  if (values.length > 1) throw new Fault('IDEMPOTENCY_KEY_REPEATED');
  const [value = ''] = values;
  const key = value.startsWith('"') ? QUOTED.exec(value)?.[1]?.replaceAll(/\\(.)/g, '$1') : value;
  if (key === undefined || !IDEMPOTENCY_KEY.test(key)) throw new Fault('IDEMPOTENCY_KEY_INVALID');
  return key;
}
