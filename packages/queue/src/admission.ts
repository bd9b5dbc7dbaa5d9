import { crc32 } from 'node:zlib';
import type { Version } from '@opm/core';
import type { Countable } from './chunk.js';
import type { KeyedPart, OpenPart, PartRecord } from './idempotency.js';

/** A customer's newest entry in flight. A claim answers whether the customer exists, without PostgreSQL. */
export type Claim = { version: Version; erased: boolean };

/** An entry to admit. */
export type AdmitRequest = { projectId: number; customerId: string; erase?: true };

/** An admitted entry: its version, and the claim that it replaced, if any. */
export type Admitted = { projectId: number; customerId: string; version: Version; previous: Claim | undefined };

/**
 * An entry that was admitted again. It keeps its `version`, but its `claim` is new. `found`: the claim that the
 * customer had: one of this entry's part (`own`), none, one of an entry before the part (`older`) or after it
 * (`newer`).
 */
export type AdmittedAgain = Admitted & { claim: Version; found: 'own' | 'none' | 'older' | 'newer' };

/**
 * - `backlogs`: approximate entries in the shard, by project id, for some of the projects. Includes the admitted
 *   entries.
 * - `recordBytes`: approximate bytes of a project's records of idempotency keys, by project id, for some of the
 *   projects.
 * - `known`: the records of the parts, if a part has one already. The entries of these parts were not admitted, and are
 *   not among `admitted`.
 */
export type AdmitResult = {
  admitted: Admitted[];
  backlogs: Map<number, number>;
  recordBytes: Map<number, number>;
  known?: (PartRecord | undefined)[];
};

/** A finished entry. `claim` is the version of its claim, if it differs from `version`. */
export type Persisted = { projectId: number; customerId: string; version: Version; claim?: Version };

/** Entries that wait in a shard: `entries` is exact, `ofProjects` (by project id) is sampled, see `countSampled`. */
export type ShardBacklog = { entries: number; ofProjects: Map<number, number> };

/**
 * Admission gives each entry a version and a claim. Each call is atomic.
 *
 * The versions of a shard strictly increase. They follow the server's clock in microseconds, so they keep increasing if
 * the store loses its data. Claims exist only for entries in flight; maintenance sweeps the claims that a crash left.
 */
export type Admission = {
  /** Stores the number of shards if none is stored, or if `instead` is stored. @returns the stored number */
  setShards(shards: number, instead?: number): Promise<number>;
  /** The stored number of shards; undefined if none is stored. */
  readShards(): Promise<number | undefined>;
  /**
   * Writes an open record for each part, but leaves out the parts that have one already. Returns one result per
   * admitted entry, in order. A customer may occur more than once.
   */
  admit(shard: number, entries: AdmitRequest[], parts?: KeyedPart[]): Promise<AdmitResult>;
  /**
   * Admits the entries of open parts again. They keep the versions of their records, and get claims with new versions,
   * unless the customer has a newer one. The new claim says "erased" only if the old one did; so an erasure without a
   * claim gets none.
   * @returns one result per entry, in order; undefined, and nothing is changed, if a record is no longer as given
   */
  admitAgain(shard: number, entries: AdmitRequest[], parts: OpenPart[]): Promise<AdmittedAgain[] | undefined>;
  /**
   * The customers' claims, in order. If a newer entry replaced the claim of a pending erasure and is settled, the
   * erasure is returned as a claim with `erased: false`.
   */
  readClaims(shard: number, projectId: number, customers: { customerId: string }[]): Promise<(Claim | undefined)[]>;
  /**
   * Adds entries that keep their versions, such as dead letters, to the backlog.
   * @returns some backlogs, like `admit`
   */
  readmit(shard: number, entries: Countable[]): Promise<Map<number, number>>;
  /** Undoes `readmit`. */
  withdraw(shard: number, entries: Countable[]): Promise<void>;
  /** Undoes `admit` or `admitAgain` for entries that were not enqueued, and restores the claims that they replaced. */
  release(shard: number, admitted: (Admitted | AdmittedAgain)[]): Promise<void>;
  /** Takes persisted entries off the backlog and drops their claims, except claims that a newer entry now holds. */
  settle(shard: number, persisted: Persisted[]): Promise<void>;
  /**
   * Entries of all projects that wait in the shard. A killed process, a job that ran twice, or a call that timed out
   * can make the count wrong, until maintenance corrects it with `correctBacklog`.
   */
  countBacklog(shard: number): Promise<number>;
  readShardBacklog(shard: number): Promise<ShardBacklog>;
  /** Adds these numbers to the counts of the shard. Negative numbers reduce them. */
  correctBacklog(shard: number, by: ShardBacklog): Promise<void>;
  /** The newest version of the shard; undefined if it has none. */
  readVersion(shard: number): Promise<Version | undefined>;
  /** Removes the shard's claims and pending erasures below this version. */
  sweep(shard: number, before: Version): Promise<void>;
};

/** Whose claim `admitAgain` found in the store: `other` is another entry's, which is older than the entry or newer. */
export type ClaimHolder = 'own' | 'none' | 'other';

/** Tells an older claim from a newer one. */
export const toFound = (
  found: ClaimHolder,
  { version, previous }: Pick<Admitted, 'version' | 'previous'>,
): AdmittedAgain['found'] => {
  if (found !== 'other') return found;
  return previous && previous.version < version ? 'older' : 'newer';
};

/** Converts the pending erasure of a customer without a claim: a newer entry is persisted, so the customer exists. */
export const toSupersededErasure = (erasure: Claim | undefined): Claim | undefined =>
  erasure && { ...erasure, erased: false };

/** The shard of a customer: the same in every process, so a customer's claims and versions are in one place. */
export function shardOf(projectId: number, customerId: string, shards: number): number {
  return shards === 1 ? 0 : crc32(`${projectId}:${customerId}`) % shards;
}
