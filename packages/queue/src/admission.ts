import type { Version } from '@opm/core';

/** The newest entry in flight of a customer: while it is there, PostgreSQL need not be asked whether they exist. */
export type Claim = { version: Version; erased: boolean };

/** What an entry got: its version, and the claim that it replaced, if any. */
export type Admitted = { customerId: string; version: Version; previous: Claim | undefined };

/** `backlog` is the number of the project's entries that wait in this shard, these included. */
export type Admittance = { admitted: Admitted[]; backlog: number };

/** Entries of one project. */
export type Persisted = { projectId: number; entries: { customerId: string; version: Version }[] };

/**
 * Decides, in one atomic step per call, the version of each entry and who was first. Versions of a shard strictly
 * increase and follow the server's clock in microseconds, so they survive the loss of what is kept here.
 * Claims exist for entries in flight only; what a crash left behind is swept.
 */
export type Admission = {
  /** Says how many shards there are, where nobody has yet or as `instead` says. @returns how many there are */
  setShards(shards: number, instead?: number): Promise<number>;
  /** How many there are; undefined where nobody has said so. */
  readShards(): Promise<number | undefined>;
  /** One result per customer, in order; a customer may occur more than once. */
  admit(shard: number, projectId: number, customers: { customerId: string; erase?: true }[]): Promise<Admittance>;
  /**
   * The customers' claims, in order. An erasure that is not persisted counts as a claim that is not erased, if the newer entry
   * that had taken its place is settled.
   */
  readClaims(shard: number, projectId: number, customers: { customerId: string }[]): Promise<(Claim | undefined)[]>;
  /** Adds entries that keep the versions that they have, such as dead letters, to the backlog. @returns the project's */
  readmit(shard: number, projectId: number, entries: number): Promise<number>;
  /** Takes back what was admitted but not enqueued, and restores what it had replaced. */
  release(shard: number, projectId: number, admitted: Admitted[]): Promise<void>;
  /** Drops the claims of persisted entries, unless a newer entry holds them by now, and takes them off the backlog. */
  settle(shard: number, persisted: Persisted[]): Promise<void>;
  /**
   * Entries of all projects that wait in the shard. It may be too large by those of a process that was killed, or of a
   * call that its caller had given up, until `limitBacklog` is called with what the jobs hold.
   */
  countBacklog(shard: number): Promise<number>;
  /** Lowers the projects' backlogs in the shard to these numbers, and those of all other projects to `others`. */
  limitBacklog(shard: number, most: Map<number, number>, others: number): Promise<void>;
  /** The newest version that was given in the shard; undefined if none was. */
  readVersion(shard: number): Promise<Version | undefined>;
  /** Removes the shard's claims, and pending erasures, below this version. */
  sweep(shard: number, before: Version): Promise<void>;
};

/** A pending erasure of a customer without a claim: something newer is persisted, and the customer is there. */
export const toOvertaken = (erasure: Claim | undefined): Claim | undefined => erasure && { ...erasure, erased: false };

/** What was queued before a weekend without workers is settled after it. */
export const CLAIM_TTL_MS = 7 * 24 * 60 * 60 * 1000;
