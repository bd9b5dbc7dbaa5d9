/** A request with an idempotency key. `id` stands for its project and key, `token` for this one attempt at it. */
export type KeyedRequest = { id: string; fingerprint: string; token: string };

export type KeptAnswer = { status: number; body: string };

/** What is known under a key to one who comes with it. `other`: the key belongs to a request with another fingerprint. */
export type Known =
  | { state: 'first' }
  | { state: 'in-flight' }
  | { state: 'other' }
  | { state: 'answered'; answer: KeptAnswer };

/** What has become of a request: without an answer it is undecided, and its key is free again. */
export type Ended = KeyedRequest & { answer: KeptAnswer | undefined };

/**
 * Keeps the first answer to each key. Each call is atomic per request, and the requests of a call are of one shard: that
 * of the key, not of any customer.
 */
export type Idempotency = {
  /** Each one that is `first` has its key for `leaseMs`, until it is ended: others are told that it is in flight. */
  begin(shard: number, requests: KeyedRequest[], leaseMs: number): Promise<Known[]>;
  /**
   * `first` where the answer is kept for `keepMs` now, or where there is none. One whose lease ran out keeps its answer
   * only if nobody else has the key by then; else it learns what is known, and its own answer must not be given.
   */
  end(shard: number, requests: Ended[], keepMs: number): Promise<Known[]>;
  /** Removes what is kept no more, where the store does not do so by itself. @returns how many */
  sweep(): Promise<number>;
};
