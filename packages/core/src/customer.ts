/** The fields of a customer. Every array, column list and statement uses this order. */
export const FIELDS = ['email', 'phone', 'firstName', 'lastName', 'ip'] as const;

export type Field = (typeof FIELDS)[number];

/** The longest id of a customer, in code points. */
export const MAX_CUSTOMER_ID_LENGTH = 255;

/** Maximum number of a customer's refused entries that the partner sees: the newest ones. */
export const MAX_REFUSED_OF_CUSTOMER = 20;

/**
 * Orders the entries of a customer: microseconds since 1970, strictly increasing per shard.
 * A number, not a bigint, because it is exact up to 2^53, which is the year 2255.
 */
export type Version = number;

/** When the entry or erasure with this version was accepted. */
export const toDate = (version: Version): Date => new Date(version / 1_000);

/** The fields that an entry sets, each a non-empty string. An omitted field keeps its stored value. */
export type EntryFields = { [F in Field]?: string };

/**
 * One change of one customer at a version: it sets `fields`, or with `erase` it erases everything older.
 * Two entries with the same customer and version are the same entry.
 */
export type CustomerEntry = {
  customerId: string;
  version: Version;
  fields?: EntryFields;
  erase?: true;
};

/**
 * How long the record of an idempotency key is kept, in µs. Until then, a repeat of its request may enqueue the entry
 * again with its original version.
 */
export const RECORD_TTL_US = 24 * 60 * 60 * 1_000_000;

/**
 * The partner's ids of the request that brought an entry. A rejected entry shows them, so the partner can find the
 * request.
 */
export type RequestIds = { idempotencyKey?: string | undefined; requestId?: string | undefined };

/**
 * A customer as a join-semilattice: a last-writer-wins register per field, and a maximum for the erasure.
 * - `versions`: the version that wrote each field; 0 if the field is absent.
 * - `erasedVersion`: the version of the last erasure; 0 if there was none. No field has this version or an older one.
 * - `firstVersion`, `lastVersion`: the oldest version since the last erasure, inclusive, and the newest one. The row
 *   stores them as `created_at` and `updated_at`.
 */
export type CustomerState = {
  fields: EntryFields;
  versions: Record<Field, Version>;
  erasedVersion: Version;
  firstVersion: Version;
  lastVersion: Version;
};

/**
 * Merges two states: per field the value with the higher version, the later erasure, and no field that the erasure
 * covers. Merging is commutative, associative and idempotent, so the order, duplication and batching of entries do
 * not matter (Shapiro et al., "Conflict-free Replicated Data Types", 2011). The upsert statement in `@opm/store` does
 * the same in SQL.
 */
export function mergeCustomer(a: CustomerState, b: CustomerState): CustomerState {
  const erasedVersion = Math.max(a.erasedVersion, b.erasedVersion);
  const merged: CustomerState = {
    fields: {},
    versions: { ...NO_VERSIONS },
    erasedVersion,
    // A customer that is re-created after an erasure dates from the erasure.
    firstVersion: Math.max(Math.min(a.firstVersion, b.firstVersion), erasedVersion),
    lastVersion: Math.max(a.lastVersion, b.lastVersion),
  };
  for (const field of FIELDS) {
    const winner = a.versions[field] >= b.versions[field] ? a : b;
    const value = winner.fields[field];
    if (value === undefined || winner.versions[field] <= erasedVersion) continue;
    merged.fields[field] = value;
    merged.versions[field] = winner.versions[field];
  }
  return merged;
}

const NO_VERSIONS = Object.fromEntries(FIELDS.map((field) => [field, 0])) as Record<Field, Version>;

/** Returns the state of a customer that has only this entry. It shares the entry's `fields` object. */
export function toState({ version, fields = {}, erase }: CustomerEntry): CustomerState {
  if (erase) {
    return {
      fields: {},
      versions: { ...NO_VERSIONS },
      erasedVersion: version,
      firstVersion: version,
      lastVersion: version,
    };
  }
  const versions = { ...NO_VERSIONS };
  for (const field of FIELDS) if (fields[field] !== undefined) versions[field] = version;
  return { fields, versions, erasedVersion: 0, firstVersion: version, lastVersion: version };
}

/** Whether the customer exists. Every entry sets an email or a phone, so a state without both is a tombstone. */
export function isLive(state: CustomerState): boolean {
  return state.fields.email !== undefined || state.fields.phone !== undefined;
}

/** Merges the entries into one state per customer, because a statement cannot update a row twice. */
export function foldEntries(entries: Iterable<CustomerEntry>): Map<string, CustomerState> {
  const states = new Map<string, CustomerState>();
  for (const entry of entries) {
    const state = toState(entry);
    const known = states.get(entry.customerId);
    states.set(entry.customerId, known ? mergeCustomer(known, state) : state);
  }
  return states;
}

const MIN_LENGTH_FOR_HINT = 6;

/**
 * The first two characters of a customer id, which tell similar ids apart. Empty for a short id, because they would
 * reveal most of it.
 */
export function toHint(customerId: string): string {
  const characters = [...customerId];
  return characters.length < MIN_LENGTH_FOR_HINT ? '' : characters.slice(0, 2).join('');
}
