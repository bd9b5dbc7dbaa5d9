import { type CustomerEntry, type EntryFields, FIELDS, type Field, type Version } from './customer-entry.js';

/**
 * A customer as a join-semilattice: a last-writer-wins register per field and a maximum for erasure.
 * `versions` says at which version each field was written, 0 where it is not there. `firstVersion` is the oldest version
 * that is not forgotten, `lastVersion` the newest; they are the row's created_at and updated_at. A field at or below
 * `erasedVersion` is never present; 0 means never erased.
 */
export type CustomerState = {
  fields: EntryFields;
  versions: Record<Field, Version>;
  erasedVersion: Version;
  firstVersion: Version;
  lastVersion: Version;
};

/**
 * The least state that holds both: per field the higher version, the later erasure, nothing that the erasure covers.
 * Commutative, associative and idempotent, so order, duplication and batching of entries change nothing
 * (Shapiro et al., "Conflict-free Replicated Data Types", 2011). `store`'s upsert statement does the same set-wise.
 */
export function mergeCustomer(a: CustomerState, b: CustomerState): CustomerState {
  const erasedVersion = Math.max(a.erasedVersion, b.erasedVersion);
  const merged: CustomerState = {
    fields: {},
    versions: { ...NO_VERSIONS },
    erasedVersion,
    // An erasure forgets the life before it, so a customer that came back dates from the erasure.
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

const NO_VERSIONS = { email: 0, phone: 0, firstName: 0, lastName: 0, ip: 0 };

/** The state of a customer of whom only this entry is known; it shares the entry's fields. */
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
  const { email, phone, firstName, lastName, ip } = fields;
  return {
    fields,
    // One by one, for this is done for every entry.
    versions: {
      email: email === undefined ? 0 : version,
      phone: phone === undefined ? 0 : version,
      firstName: firstName === undefined ? 0 : version,
      lastName: lastName === undefined ? 0 : version,
      ip: ip === undefined ? 0 : version,
    },
    erasedVersion: 0,
    firstVersion: version,
    lastVersion: version,
  };
}

/** Whether the customer exists: every entry gives an email or a phone, so a state without both is a tombstone. */
export function isLive(state: CustomerState): boolean {
  return state.fields.email !== undefined || state.fields.phone !== undefined;
}
