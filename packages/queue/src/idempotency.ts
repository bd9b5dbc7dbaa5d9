/** A request with an idempotency key. `id` stands for its project and key, `token` for this one attempt at it. */
export type KeyedRequest = { id: string; fingerprint: string; token: string };

export type KeptAnswer = { status: number; body: string };

/**
 * What is known under a key to one who comes with it. `other`: the key belongs to a request with another fingerprint.
 * `no-room`: the key is new, and the answers to the project's keys take all that they may.
 */
export type Known =
  | { state: 'first' }
  | { state: 'in-flight' }
  | { state: 'other' }
  | { state: 'no-room' }
  | { state: 'answered'; answer: KeptAnswer };

/** What has become of a request: without an answer it is undecided, and its key is free again. */
export type Ended = KeyedRequest & { answer: KeptAnswer | undefined };

/**
 * Keeps the first answer to each key. Each call is atomic per request, and the requests of a call are of one project and
 * one shard: that of the key, not of any customer.
 */
export type Idempotency = {
  /** Each one that is `first` has its key for `leaseMs`, until it is ended: others are told that it is in flight. */
  begin(shard: number, projectId: number, requests: KeyedRequest[], leaseMs: number): Promise<Known[]>;
  /**
   * `first` where the answer is kept for `keepMs` now, or where there is none. One whose lease ran out keeps its answer
   * only if nobody else has the key by then; else it learns what is known, and its own answer must not be given.
   */
  end(shard: number, projectId: number, requests: Ended[], keepMs: number): Promise<Known[]>;
  /** Removes what is kept no more, where the store does not do so by itself. @returns how many */
  sweep(): Promise<number>;
};

/** What one project's answers may take, in bytes; of a store with a limit, a tenth of it. */
const MAX_KEPT_BYTES = 256 * 1024 * 1024;
const MAX_KEPT_PART = 0.1;

/** What a project's answers may take of a store with so much memory, 0 for no limit. In bytes. */
export const toMaxKeptBytes = (memoryLimit: number): number =>
  memoryLimit > 0 ? Math.floor(memoryLimit * MAX_KEPT_PART) : MAX_KEPT_BYTES;

/** What an answer takes in a store beside itself: key, fingerprint, indexes. */
export const KEPT_OVERHEAD = 200;
