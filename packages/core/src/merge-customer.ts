import { type CustomerEntry, FIELDS, type Field, type Version } from './customer-entry.js';

/**
 * A customer as a join-semilattice: a last-writer-wins register per field and a maximum for erasure.
 * `firstVersion` is the oldest version that is not forgotten, `lastVersion` the newest; they are the row's
 * created_at and updated_at. A field at or below `erasedVersion` is never present; 0 means never erased.
 */
export type CustomerState = {
  fields: { [F in Field]?: { value: string; version: Version } };
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
    erasedVersion,
    // An erasure forgets the life before it, so a customer that came back dates from the erasure.
    firstVersion: Math.max(Math.min(a.firstVersion, b.firstVersion), erasedVersion),
    lastVersion: Math.max(a.lastVersion, b.lastVersion),
  };
  for (const field of FIELDS) {
    const [ours, theirs] = [a.fields[field], b.fields[field]];
    const winner = (ours?.version ?? 0) >= (theirs?.version ?? 0) ? ours : theirs;
    if (winner && winner.version > erasedVersion) merged.fields[field] = winner;
  }
  return merged;
}

/** The state of a customer of whom only this entry is known. */
export function toState({ version, fields = {}, erase }: CustomerEntry): CustomerState {
  const state: CustomerState = {
    fields: {},
    erasedVersion: erase ? version : 0,
    firstVersion: version,
    lastVersion: version,
  };
  if (erase) return state;
  for (const field of FIELDS) {
    const value = fields[field];
    if (value !== undefined) state.fields[field] = { value, version };
  }
  return state;
}

/** Whether the customer exists: every entry gives an email or a phone, so a state without both is a tombstone. */
export function isLive(state: CustomerState): boolean {
  return state.fields.email !== undefined || state.fields.phone !== undefined;
}
