import type { Version } from '@opm/core';

/**
 * The part of a request with an idempotency key that one shard admits at once: `size` consecutive entries of a chunk,
 * from the index `first`.
 *
 * - `id`: identifies the project, the key and the place of the first entry in the request. 16 base64url characters.
 * - `fingerprint`: identifies the whole request. 8 base64url characters.
 */
export type KeyedPart = { id: string; fingerprint: string; projectId: number; first: number; size: number };

/**
 * What the store remembers of a part, or of a request, for 24 h from `version` on.
 *
 * - `version`: version of the part's first entry at the first admission; the others follow one by one.
 * - `state`: see `PartState`. Empty for a request, which only keeps its fingerprint.
 */
export type PartRecord = { fingerprint: string; version: Version; state: string };

/**
 * - `size`: number of entries.
 * - `existed`: the verdict of each entry, once the part is closed.
 * - `previous`: per entry, the claim that the first admission found: `p` present, `e` erased, `-` none.
 * - `claim`: claim of the first entry at the last admission; the others follow one by one.
 */
export type PartState = OpenState | { size: number; existed: boolean[] };
type OpenState = { size: number; existed?: undefined; previous: string; claim: Version };

/** A part to admit again, with the record that was found. */
export type OpenPart = KeyedPart & { record: PartRecord };

/** A part whose entries are queued, with its new state. */
type ClosedPart = { id: string; version: Version; state: string };

/** A request to remember in the shard of its key. */
export type KeyedRequest = Pick<KeyedPart, 'id' | 'fingerprint' | 'projectId'>;

/**
 * Remembers what each idempotency key stands for. Admission writes the record of each part, see `Admission.admit`. Each
 * call is atomic per record.
 */
export type Idempotency = {
  /** Remembers each request whose id has no record. @returns the record found, in order; undefined if there was none */
  remember(shard: number, requests: KeyedRequest[]): Promise<(PartRecord | undefined)[]>;
  /** @returns the records, in order */
  read(shard: number, ids: string[]): Promise<(PartRecord | undefined)[]>;
  /**
   * Sets the state of each part whose record has this version. If a concurrent attempt has closed the part before,
   * merges both: the customer existed only if both attempts say so; an attempt that could not find out says yes.
   * @returns the states that differ from the given ones now, by index of the part
   */
  close(shard: number, parts: ClosedPart[]): Promise<Map<number, string>>;
  /** Approximate bytes of a project's records in the shard, or in the whole store if it does not separate shards. */
  readBytes(shard: number, projectId: number): Promise<number>;
  /** The limit for `readBytes`. */
  maxBytes(): number;
  /** Removes all records that PostgreSQL does not have, after it was restored: their entries may be missing. */
  forget(): Promise<void>;
  /** Removes expired records. @returns the number removed, or of groups of records if the store counts these */
  sweep(): Promise<number>;
};

/** Limit of one project's records, in bytes; in a store with a memory limit, a tenth of that limit. */
const MAX_BYTES = 256 * 1024 * 1024;
const MAX_SHARE = 0.1;

/**
 * The limit of one project's records.
 * @param memoryLimit of the store in bytes, 0 if it has none
 * @returns bytes
 */
export const toMaxBytes = (memoryLimit: number): number =>
  memoryLimit > 0 ? Math.floor(memoryLimit * MAX_SHARE) : MAX_BYTES;

/** Approximate bytes of a record in the store, indexes included. */
export const toRecordBytes = (size: number): number => RECORD_BYTES + Math.ceil(size / 4);
export const RECORD_BYTES = 120;

/** A record counts for its project only if its version is divisible by 16, and then it counts 16 times. */
export const RECORD_SAMPLE = 16;

const OPEN = /^:(\d+):([pe-]*)(?::(\d+))?$/;
const CLOSED = /^=(\d+):([0-9a-f]+)$/;

/** Parses the state of a part. Undefined for a request. @throws Error if the state has another form */
export function parsePart({ state, version }: PartRecord): PartState | undefined {
  if (state === '') return undefined;
  const [, size = '', previous = '', claim] = OPEN.exec(state) ?? [];
  if (size) return { size: Number(size), previous, claim: Number(claim ?? version) };
  const existed = parseClosedState(state);
  return { size: existed.length, existed };
}

/** The inverse of `toClosedState`. @throws Error if the state has another form */
export function parseClosedState(state: string): boolean[] {
  const [, entries = '', bits = ''] = CLOSED.exec(state) ?? [];
  if (!entries) throw new Error(`a record of an idempotency key has the unknown state ${state}`);
  return Array.from({ length: Number(entries) }, (_, i) => {
    const digit = Number.parseInt(bits[i >> 2] ?? '0', 16);
    return ((digit >> (i & 3)) & 1) === 1;
  });
}

/** Parses the state of an open part. @throws Error if it is closed */
export function parseOpen(record: PartRecord): OpenState {
  const state = parsePart(record);
  if (!state || state.existed) throw new Error('the part is not open');
  return state;
}

/**
 * The state of a closed part: `=`, the number of entries, `:`, and a bit per entry as hexadecimal digits. Takes `size`
 * entries of `existed`, from the index `first`.
 */
export function toClosedState(existed: boolean[], first = 0, size = existed.length): string {
  let bits = '';
  for (let i = 0; i < size; i += 4) {
    let digit = 0;
    for (let j = 0; j < 4 && i + j < size; j++) if (existed[first + i + j]) digit |= 1 << j;
    bits += digit.toString(16);
  }
  return `=${size}:${bits}`;
}

/** The entries that belong to no part with a record. `known`: the records of the parts. */
export function findNew<T>(entries: T[], parts: KeyedPart[], known: (PartRecord | undefined)[]): T[] {
  const isNew = new Array<boolean>(entries.length).fill(true);
  for (const [n, { first, size }] of parts.entries()) if (known[n]) isNew.fill(false, first, first + size);
  return entries.filter((_, place) => isNew[place]);
}

/** The state of an open part, without the claim that an admission adds. */
export const toOpenState = (size: number, previous: string): string => `:${size}:${previous}`;
