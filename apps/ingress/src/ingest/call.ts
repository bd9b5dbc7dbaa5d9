import { Fault } from '@opm/contract';
import { type CustomerEntry, FIELDS, type Version } from '@opm/core';
import type { AdmitRequest, Admitted, ChunkEntry, KeyedPart } from '@opm/queue';
import type { Requester } from '../http/request-context.js';

/** An entry or an erasure as a partner sent it, before admission gives it a version. */
export type EntryInput = Omit<CustomerEntry, 'version'>;

/**
 * - `existed`: whether the customer existed before this entry: 202 or 201 for an entry, 202 or 404 for an erasure.
 * - `version`: the entry's version; a repeat with an idempotency key has that of the first attempt.
 * - `isReplayed`: the verdict is the one that an earlier attempt with the same idempotency key got.
 */
export type Verdict = { existed: boolean; version: Version; isReplayed?: true };

/** One result per call; undefined if the record of an earlier attempt's part has fewer entries. */
export type Results = (Verdict | Fault | undefined)[];

/**
 * Resolves once the entry is queued durably.
 * @throws Fault OVERLOADED: the entry was not accepted. QUEUE_UNAVAILABLE: the entry may have been queued. Sending it
 * again is safe in both cases.
 */
export type AcceptEntry = (requester: Requester, entry: EntryInput) => Promise<Verdict>;

/**
 * The same for several entries, at most as many as a chunk holds. Resolves with one result or Fault per entry, in
 * order. Entries of one customer take effect in this order.
 * @throws Fault OVERLOADED: no entry was accepted
 */
export type AcceptEntries = (requester: Requester, entries: EntryInput[]) => Promise<(Verdict | Fault)[]>;

/**
 * The same for a part of a request with an idempotency key, whose entries have one shard. Undefined for the entries that
 * the record of an earlier attempt's part with the same id does not cover.
 * @throws Fault OVERLOADED or QUEUE_UNAVAILABLE, as `AcceptEntry`
 */
export type AcceptPart = (requester: Requester, part: PartInput) => Promise<Results>;

export type PartInput = { id: string; fingerprint: string; entries: EntryInput[] };

/**
 * An entry on its way into a chunk. `part`: the part of the keyed request that it belongs to; all entries of a part share
 * the object. `admit` gets the call itself; a copy would cost time for every entry.
 */
export type Call = AdmitRequest & {
  requester: Requester;
  entry: EntryInput;
  part?: Pick<KeyedPart, 'id' | 'fingerprint'>;
};

/**
 * Calls of one request that share a chunk, in this order. `bytes`: their approximate size in a job's data. `isSingle`: the
 * result is that of the only call, which spares a promise for every entry; else an array.
 */
export type CallGroup = { requester: Requester; calls: Call[]; bytes: number; isSingle: boolean };

/** Logs why the queue's store failed, and converts the error. What is not a Fault may have taken effect. */
export const createToFault =
  (warn: (error: Error) => void) =>
  (error: Error): Fault => {
    warn((error.cause as Error | undefined) ?? error);
    return error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
  };

/** A larger job would block Redis and the workers for other jobs for too long. */
export const MAX_CHUNK_BYTES = 64 * 1024;

/** Bytes of an entry's project id and separators. */
const ENTRY_OVERHEAD = 32;

export function toCall(requester: Requester, entry: EntryInput, part?: Call['part']): Call {
  const call: Call = { projectId: requester.projectId, customerId: entry.customerId, requester, entry };
  if (entry.erase) call.erase = true;
  if (part) call.part = part;
  return call;
}

/** Approximate size of an entry in a job's data, in bytes. */
export function toBytes({ customerId, fields }: EntryInput): number {
  let bytes = ENTRY_OVERHEAD + Buffer.byteLength(customerId);
  if (fields) for (const field of FIELDS) bytes += fields[field] ? Buffer.byteLength(fields[field]) : 0;
  return bytes;
}

/** Size of a request's ids, which a job's data has once, in bytes. */
export const toRequestBytes = ({ requestIds }: Requester): number =>
  requestIds ? JSON.stringify(requestIds).length : 0;

/** The keyed parts among the calls. The calls of a part follow one another. */
export function toKeyedParts(calls: Call[]): KeyedPart[] {
  const parts: KeyedPart[] = [];
  let previous: Call['part'];
  let place = 0;
  for (const { part, projectId } of calls) {
    if (part && part === previous) (parts[parts.length - 1] as KeyedPart).size++;
    else if (part) parts.push({ id: part.id, fingerprint: part.fingerprint, projectId, first: place, size: 1 });
    previous = part;
    place++;
  }
  return parts;
}

/** Combines the entries with the versions that admission gave them. */
export function toEntries(calls: Call[], admitted: (Admitted & { claim?: Version })[]): ChunkEntry[] {
  return calls.map(({ projectId, entry: input, requester: { requestIds } }, i) => {
    const { version, claim } = admitted[i] ?? {};
    if (version === undefined) throw new Error('admission returned fewer results than entries');
    const entry: ChunkEntry = { projectId, customerId: input.customerId, version };
    if (claim !== undefined) entry.claim = claim;
    if (input.fields) entry.fields = input.fields;
    if (input.erase) entry.erase = true;
    if (requestIds) entry.requestIds = requestIds;
    return entry;
  });
}
