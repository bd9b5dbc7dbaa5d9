import { type CustomerEntry, type CustomerState, FIELDS, type Field, type Version } from './customer.js';

/** What a receipt says: the entry's version, and the fields that it sets; none for an erasure. */
export type Receipt = { version: Version; fields: Field[] };

/**
 * Versions have ten digits to base 36, until the year 2085. They are written in two parts, because V8 is four times as
 * slow with numbers that do not fit in 32 bits.
 */
const BASE = 36;
const HIGH_DIGITS = 4;
const LOW_DIGITS = 6;
const LOW = BASE ** LOW_DIGITS;
const CHECK = BASE ** 2;

const FORM = /^([0-9a-z]{4})([0-9a-z]{6})([0-9a-z]{1,2})([0-9a-z]{2})$/;

/**
 * The receipt of an accepted entry or erasure: 13 or 14 lower-case letters and digits. Its version and fields are
 * enough to tell from the customer's row whether the entry took effect, so nothing has to be stored for it.
 *
 * In order: the version; one or two digits whose bits are the fields, in the order of `FIELDS`; two digits that depend
 * on the customer, so that a receipt of another customer is noticed. All parts but the fields have a fixed length.
 */
export function toReceipt({
  version,
  customerId,
  fields,
}: Pick<CustomerEntry, 'version' | 'customerId' | 'fields'>): string {
  const high = Math.floor(version / LOW);
  let bits = 0;
  let place = 0; // `entries()` is slower, and this runs for every entry
  if (fields) for (const field of FIELDS) bits |= (fields[field] === undefined ? 0 : 1) << place++;
  const check = toCheck(customerId).toString(BASE).padStart(2, '0');
  const low = (version - high * LOW).toString(BASE).padStart(LOW_DIGITS, '0');
  return high.toString(BASE).padStart(HIGH_DIGITS, '0') + low + bits.toString(BASE) + check;
}

/** @returns undefined if it is not a receipt of this customer */
export function parseReceipt(receipt: string, customerId: string): Receipt | undefined {
  const [, high = '', low = '', digits = '', check = ''] = FORM.exec(receipt) ?? [];
  if (!high || Number.parseInt(check, BASE) !== toCheck(customerId)) return undefined;
  const bits = Number.parseInt(digits, BASE);
  if (bits >> FIELDS.length) return undefined; // a field that this release does not know
  const version = Number.parseInt(high, BASE) * LOW + Number.parseInt(low, BASE);
  return { version, fields: FIELDS.filter((_, i) => (bits >> i) & 1) };
}

/**
 * Whether the entry took effect in the customer's row, or newer entries cover it: merging it again would change no
 * field.
 * @param row its fields' versions and its erasure's, 0 for none
 */
export function isStored(
  { version, fields }: Receipt,
  row: Pick<CustomerState, 'versions' | 'erasedVersion'>,
): boolean {
  if (row.erasedVersion >= version) return true;
  return fields.length > 0 && fields.every((field) => row.versions[field] >= version);
}

/** FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), over UTF-16 code units instead of bytes. */
function toCheck(customerId: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < customerId.length; i++) hash = Math.imul(hash ^ customerId.charCodeAt(i), 0x01000193);
  return (hash >>> 0) % CHECK;
}
