import { Fault } from '@opm/contract';
import { type CustomerEntry, FIELDS, type Version } from '@opm/core';
import {
  type AdmitRequest,
  type Admitted,
  type Chunk,
  type ChunkEntry,
  type KeyedPart,
  type PartRecord,
  parseClosedState,
} from '@opm/queue';
import type { Requester } from '../http/request-context.js';
import type { ChunkPartition } from './partitions.js';

/** An entry or an erasure as a partner sent it, before admission gives it a version. */
export type EntryInput = Omit<CustomerEntry, 'version'>;

/**
 * - `existed`: whether the customer existed before this entry: 202 or 201 for an entry, 202 or 404 for an erasure.
 * - `version`: the entry's version; a repeat with an idempotency key has that of the first attempt.
 * - `isReplayed`: the verdict is the one that an earlier attempt with the same idempotency key got.
 */
export type Verdict = { existed: boolean; version: Version; isReplayed?: true };

/** The verdicts of a part whose record is closed. */
export const toReplayed = ({ version }: PartRecord, existed: boolean[]): Verdict[] =>
  existed.map((own, i) => ({ existed: own, version: version + i, isReplayed: true }));

/** Refuses calls whose partners no longer wait. They were not admitted. */
export class AbandonedFault extends Fault {
  constructor() {
    super('QUEUE_UNAVAILABLE');
  }
}

/** One result per call; undefined if the record of an earlier attempt's part has fewer entries. */
export type Results = (Verdict | Fault | undefined)[];

/**
 * Resolves once the entry is queued durably.
 * @throws Fault OVERLOADED: the entry was not accepted. QUEUE_UNAVAILABLE: the entry may have been queued. Sending it
 * again is safe in both cases.
 */
export type AcceptEntry = (requester: Requester, entry: EntryInput) => Promise<Verdict>;

/**
 * Accepts several entries, at most as many as a chunk holds. Resolves with one result or Fault per entry, in order.
 * Entries of one customer take effect in this order.
 * @throws Fault OVERLOADED: no entry was accepted
 */
export type AcceptEntries = (requester: Requester, entries: EntryInput[]) => Promise<(Verdict | Fault)[]>;

/**
 * Accepts a part of a request with an idempotency key. All its entries are in one shard. The result of an entry is
 * undefined if an earlier attempt has a record of the part that does not cover the entry.
 * @throws Fault OVERLOADED or QUEUE_UNAVAILABLE, as `AcceptEntry`
 */
export type AcceptPart = (requester: Requester, part: PartInput) => Promise<Results>;

/** `bytes`: an upper bound of the entry's size, if there is only one entry. */
export type PartInput = { id: string; fingerprint: string; entries: EntryInput[]; bytes?: number | undefined };

/**
 * An entry on its way into the queue, with what admission must know of it. `admit` gets the call itself; a copy would
 * cost time for every entry.
 */
export type Call = AdmitRequest & { entry: EntryInput; group: CallGroup };

/** Calls of one request that are admitted together, in this order. */
export type CallGroup = {
  requester: Requester;
  /** The part of a keyed request, if these calls are one. */
  part: Pick<KeyedPart, 'id' | 'fingerprint'> | undefined;
  /** Priority of their job; depends on project and shard. */
  priority: number;
  calls: Call[];
  /** The place of the group's first call among all calls that are admitted together. */
  first: number;
  /** Their approximate size in a job's data. */
  bytes: number;
  /** Has one call, and resolves with its result instead of an array: one promise fewer per entry. */
  isSingle: boolean;
};

/** Calls that are admitted together, and the keyed parts among them. Times are `performance.now()`, in ms. */
export type Bulk = ChunkPartition & {
  calls: Call[];
  parts: KeyedPart[];
  /** When the partners get a 503. */
  deadline: number;
  /** Shortly before `deadline`: when PostgreSQL and the store of the parts' records must have answered. */
  replyAt: number;
};

/** The calls at these places of a bulk. */
export function pickCalls(bulk: Bulk, places: number[]): Bulk {
  const calls = places.map((place) => bulk.calls[place] as Call);
  return { ...bulk, calls, parts: toKeyedParts(calls) };
}

/** A larger job would block Redis and the workers for other jobs for too long. */
export const MAX_CHUNK_BYTES = 64 * 1024;

/** Bytes of an entry's project id and separators. */
const ENTRY_OVERHEAD = 32;

/** @param bytes approximate size of the entry in a job's data */
export function addCall(group: CallGroup, entry: EntryInput, bytes = toBytes(entry)): void {
  const call: Call = { projectId: group.requester.projectId, customerId: entry.customerId, entry, group };
  if (entry.erase) call.erase = true;
  group.calls.push(call);
  group.bytes += bytes;
}

/** Approximate size of an entry in a job's data, in bytes. */
export function toBytes({ customerId, fields }: EntryInput): number {
  let bytes = ENTRY_OVERHEAD + Buffer.byteLength(customerId);
  if (fields) for (const field of FIELDS) bytes += fields[field] ? Buffer.byteLength(fields[field]) : 0;
  return bytes;
}

/** Approximate size of a request's ids, which a job's data has once, in bytes. */
export const toRequestBytes = ({ requestIds }: Requester): number =>
  requestIds ? JSON.stringify(requestIds).length : 0;

/** What identifies an entry, however the partner spelled it; for an invalid entry, the code of its fault. */
export function toText(item: EntryInput | Fault): string {
  if (item instanceof Fault) return item.code;
  const { customerId, erase = false, fields = {} } = item;
  const text: (string | boolean)[] = [customerId, erase];
  for (const field of FIELDS) if (fields[field]) text.push(field, fields[field]); // `flatMap` costs 1.6 µs per entry
  return JSON.stringify(text);
}

/** The keyed parts among the calls. The calls of a part follow one another. */
export function toKeyedParts(calls: Call[]): KeyedPart[] {
  const parts: KeyedPart[] = [];
  let previous: CallGroup | undefined;
  let place = 0;
  for (const { group, projectId } of calls) {
    const { part } = group;
    if (part && group === previous) (parts[parts.length - 1] as KeyedPart).size++;
    // `...part` costs 1.4 µs per entry.
    else if (part) parts.push({ id: part.id, fingerprint: part.fingerprint, projectId, first: place, size: 1 });
    previous = group;
    place++;
  }
  return parts;
}

type PrioritizedChunk = Chunk & { priority: number };

/**
 * Combines the calls, which are in order of priority, with the versions that admission gave them: one chunk per
 * priority.
 */
export function toChunks(calls: Call[], admitted: (Admitted & { claim?: Version })[]): PrioritizedChunk[] {
  const chunks: PrioritizedChunk[] = [];
  let chunk: PrioritizedChunk | undefined;
  let place = 0; // `entries()` is slower, and this runs for every entry
  for (const { projectId, entry: input, group } of calls) {
    const { version, claim } = admitted[place++] ?? {};
    if (version === undefined) throw new Error('admission returned fewer results than entries');
    const { requestIds } = group.requester;
    const entry: ChunkEntry = { projectId, customerId: input.customerId, version };
    if (claim !== undefined) entry.claim = claim;
    if (input.fields) entry.fields = input.fields;
    if (input.erase) entry.erase = true;
    if (requestIds) entry.requestIds = requestIds;
    if (chunk?.priority !== group.priority) {
      chunk = { priority: group.priority, entries: [] };
      chunks.push(chunk);
    }
    chunk.entries.push(entry);
  }
  return chunks;
}

/** `merged`: the states of the parts that a concurrent attempt has closed with other verdicts, by index of the part. */
export function withMerged(verdicts: Verdict[], parts: KeyedPart[], merged: Map<number, string>): Verdict[] {
  if (merged.size === 0) return verdicts;
  const all = [...verdicts];
  for (const [n, state] of merged) {
    const { first } = parts[n] as KeyedPart;
    for (const [i, existed] of parseClosedState(state).entries()) {
      const verdict = verdicts[first + i] as Verdict;
      if (verdict.existed !== existed) all[first + i] = { ...verdict, existed, isReplayed: true };
    }
  }
  return all;
}
