/** The mergeable fields of a customer, in the order in which every array, column list and statement names them. */
export const FIELDS = ['email', 'phone', 'firstName', 'lastName', 'ip'] as const;

export type Field = (typeof FIELDS)[number];

/**
 * Microseconds since 1970, strictly increasing per shard; it orders the entries of a customer.
 * A number, not a bigint: exact up to 2^53, which is the year 2255.
 */
export type Version = number;

/** The fields that an entry gives, each a non-empty string. A field that is left out keeps its stored value. */
export type EntryFields = { [F in Field]?: string };

/**
 * What one request says about one customer, at its version: either some fields, or that everything older is erased.
 * A version names one entry of a customer: two entries with the same customer and version are the same entry.
 */
export type CustomerEntry = {
  customerId: string;
  version: Version;
  fields?: EntryFields;
  erase?: true;
};
