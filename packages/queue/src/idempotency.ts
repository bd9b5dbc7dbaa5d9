/** A request with an idempotency key. `id` identifies the project and key, `token` this attempt at the request. */
export type KeyedRequest = { id: string; fingerprint: string; token: string };

export type StoredResponse = { status: number; body: string };

/**
 * State of an idempotency key for the request that presents it.
 *
 * - `first`: the request now has the key.
 * - `in-flight`: another attempt has locked the key.
 * - `other`: the key belongs to a request with another fingerprint.
 * - `no-room`: the key is new, but the project's stored responses have reached their limit.
 * - `answered`: the stored response.
 */
export type KeyState =
  | { state: 'first' }
  | { state: 'in-flight' }
  | { state: 'other' }
  | { state: 'no-room' }
  | { state: 'answered'; answer: StoredResponse };

/** A completed request. Without an answer, its outcome is undecided and its key is freed. */
export type CompletedRequest = KeyedRequest & { answer: StoredResponse | undefined };

/**
 * Stores the first response to each key. Each call is atomic per request. All requests of a call belong to one
 * project and one shard: the shard of the key, not of a customer.
 */
export type Idempotency = {
  /** Locks each key that is `first` for `lockMs`, or until `end`. Other attempts get `in-flight` meanwhile. */
  begin(shard: number, projectId: number, requests: KeyedRequest[], lockMs: number): Promise<KeyState[]>;
  /**
   * Stores the response of each request for `keepMs`, or frees its key if it has none. Returns `first` for each.
   * If a key's lock has expired and another attempt has the key, stores nothing and returns that attempt's state. The
   * caller must not send its own response then.
   */
  end(shard: number, projectId: number, requests: CompletedRequest[], keepMs: number): Promise<KeyState[]>;
  /** Removes expired keys, if the store does not expire them itself. @returns the number removed */
  sweep(): Promise<number>;
};

/** Limit of one project's stored responses, in bytes; in a store with a memory limit, a tenth of that limit. */
const MAX_STORED_BYTES = 256 * 1024 * 1024;
const MAX_STORED_PART = 0.1;

/**
 * The limit of one project's stored responses.
 * @param memoryLimit of the store in bytes, 0 if it has none
 * @returns bytes
 */
export const toMaxStoredBytes = (memoryLimit: number): number =>
  memoryLimit > 0 ? Math.floor(memoryLimit * MAX_STORED_PART) : MAX_STORED_BYTES;

/** Bytes that the store needs beside a response: key, fingerprint, indexes. */
export const STORED_OVERHEAD = 200;
