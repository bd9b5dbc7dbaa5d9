import type { Version } from '@opm/core';
import type { Countable } from './backlog-sample.js';

/** The newest entry in flight of a customer: while it is there, PostgreSQL need not be asked whether they exist. */
export type Claim = { version: Version; erased: boolean };

/** An entry that asks to be admitted. */
export type Asking = { projectId: number; customerId: string; erase?: true };

/** What an entry got: its version, and the claim that it replaced, if any. */
export type Admitted = { projectId: number; customerId: string; version: Version; previous: Claim | undefined };

/** `backlogs` are those of some of the projects, about, in this shard, these entries included. */
export type Admittance = { admitted: Admitted[]; backlogs: Map<number, number> };

/** An entry that is done; `claim` is the version of its claim, if that is not its own. */
export type Persisted = { projectId: number; customerId: string; version: Version; claim?: Version };

/** Entries that wait in a shard: exactly, and about, by project. */
export type Waiting = { entries: number; ofProjects: Map<number, number> };

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
  /** One result per entry, in order; a customer may occur more than once. */
  admit(shard: number, entries: Asking[]): Promise<Admittance>;
  /**
   * The customers' claims, in order. An erasure that is not persisted counts as a claim that is not erased, if the newer entry
   * that had taken its place is settled.
   */
  readClaims(shard: number, projectId: number, customers: { customerId: string }[]): Promise<(Claim | undefined)[]>;
  /** Adds entries that keep the versions that they have, such as dead letters, to the backlog. @returns some backlogs, as `admit` */
  readmit(shard: number, entries: Countable[]): Promise<Map<number, number>>;
  /** Takes back what `readmit` did. */
  withdraw(shard: number, entries: Countable[]): Promise<void>;
  /** Takes back what was admitted but not enqueued, and restores what it had replaced. */
  release(shard: number, admitted: Admitted[]): Promise<void>;
  /** Drops the claims of persisted entries, unless a newer entry holds them by now, and takes them off the backlog. */
  settle(shard: number, persisted: Persisted[]): Promise<void>;
  /**
   * Entries of all projects that wait in the shard. It may be wrong by those of a process that was killed, of a job that was
   * done twice, or of a call that its caller had given up, until `correctBacklog` is called with what the jobs hold.
   */
  countBacklog(shard: number): Promise<number>;
  readWaiting(shard: number): Promise<Waiting>;
  /** Adds to what waits in the shard, or, with what is below zero, takes away. */
  correctBacklog(shard: number, by: Waiting): Promise<void>;
  /** The newest version that was given in the shard; undefined if none was. */
  readVersion(shard: number): Promise<Version | undefined>;
  /** Removes the shard's claims, and pending erasures, below this version. */
  sweep(shard: number, before: Version): Promise<void>;
};

/** A pending erasure of a customer without a claim: something newer is persisted, and the customer is there. */
export const toOvertaken = (erasure: Claim | undefined): Claim | undefined => erasure && { ...erasure, erased: false };

/** What was queued before a weekend without workers is settled after it. */
export const CLAIM_TTL_MS = 7 * 24 * 60 * 60 * 1000;
