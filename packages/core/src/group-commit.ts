import { FairQueue, type Room, type Source, Sources } from './fair-queue.js';

/** A call, from its arrival to its result. */
type Call<Partition, Item, Result> = Room & {
  partition: Partition;
  item: Item;
  source: Source;
  since: number;
  /** False once the call is in a bulk call or has expired. */
  isWaiting: boolean;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
  /** The next call in order of arrival, of any partition. */
  next: Call<Partition, Item, Result> | undefined;
};

/** `isAll`: no call of the partition is left. */
type Batch<Partition, Item, Result> = {
  partition: Partition;
  calls: Call<Partition, Item, Result>[];
  isAll: boolean;
};

type Bytes<Item> = { of: (item: Item) => number; max: number };
type Expiry<Item> = { maxWaitMs: number; toError: (item: Item) => Error };

/** A count per key. Keys with a count of 0 are removed. */
class Tally<Key> {
  readonly #counts = new Map<Key, number>();

  of(key: Key): number {
    return this.#counts.get(key) ?? 0;
  }

  add(key: Key, difference: number): void {
    const count = this.of(key) + difference;
    if (count === 0) this.#counts.delete(key);
    else this.#counts.set(key, count);
  }
}

/**
 * Group commit (as in databases: DeWitt et al., SIGMOD 1984): turns concurrent calls into bulk calls. Calls of one
 * partition that arrive in one turn of the event loop, or while `maxInFlight` bulk calls are in flight, become one call
 * of `commit` with at most `maxBatch` items. There is no timer, so a lone call is not delayed.
 *
 * - `commit` returns one result per item, in order, or throws for all items. An Error as a result rejects its item.
 * - An item counts as one, or as `sizeOf` says, at least 1. An item larger than `maxBatch` goes alone. If `maxBatch` is
 *   a function, each bulk call reads it. `bytes` sets a second limit of the same kind.
 * - Partitions take turns. With `sourceOf`, the sources of a partition share its bulk calls fairly (`FairQueue`).
 * - `maxInFlightPerPartition` limits the bulk calls in flight of one partition. A bulk call counts as one, or as
 *   `slotsOf` says if it took all waiting calls of its partition; it starts while any slot is free.
 * - `expiry` bounds the wait behind bulk calls that hang: when one ends, calls that waited longer are rejected.
 * - If `refuse` returns an error for an item at its turn, the item's call is rejected.
 *
 * A partition uses memory only while calls wait in it.
 */
export class GroupCommit<Partition, Item, Result> {
  readonly #commit: (partition: Partition, items: Item[]) => Promise<(Result | Error)[]>;
  readonly #maxBatch: () => number;
  readonly #maxBytes: number;
  readonly #sizeOf: (item: Item) => number;
  readonly #bytesOf: (item: Item) => number;
  readonly #sourceOf: (item: Item) => unknown;
  readonly #slotsOf: (items: Item[]) => number;
  readonly #maxInFlight: number;
  readonly #maxInFlightPerPartition: number;
  readonly #expiry: Expiry<Item> | undefined;
  readonly #refuse: ((item: Item) => Error | undefined) | undefined;
  readonly #partitions = new Map<Partition, FairQueue<Source, Call<Partition, Item, Result>>>();
  readonly #inFlightOfPartition = new Tally<Partition>();
  readonly #sources = new Sources();
  /** Linked list of the calls that may expire, oldest first. It may still contain calls that no longer wait. */
  #oldest: Call<Partition, Item, Result> | undefined;
  #newest: Call<Partition, Item, Result> | undefined;
  #pending = 0;
  #inFlight = 0;
  #scheduled = false;

  constructor(options: {
    commit: (partition: Partition, items: Item[]) => Promise<(Result | Error)[]>;
    maxBatch: number | (() => number);
    maxInFlight: number;
    maxInFlightPerPartition?: number;
    sizeOf?: (item: Item) => number;
    bytes?: Bytes<Item>;
    sourceOf?: (item: Item) => unknown;
    slotsOf?: (items: Item[]) => number;
    expiry?: Expiry<Item>;
    refuse?: (item: Item) => Error | undefined;
  }) {
    this.#commit = options.commit;
    const { maxBatch } = options;
    this.#maxBatch = typeof maxBatch === 'number' ? () => maxBatch : maxBatch;
    this.#maxInFlight = options.maxInFlight;
    this.#maxInFlightPerPartition = options.maxInFlightPerPartition ?? options.maxInFlight;
    const { sizeOf = () => 1, bytes = { of: () => 0, max: Number.POSITIVE_INFINITY } } = options;
    this.#maxBytes = bytes.max;
    this.#sizeOf = sizeOf;
    this.#bytesOf = bytes.of;
    this.#sourceOf = options.sourceOf ?? (() => undefined);
    this.#slotsOf = options.slotsOf ?? (() => 1);
    this.#expiry = options.expiry;
    this.#refuse = options.refuse;
  }

  /** Size of the items that wait or are in flight. */
  get pending(): number {
    return this.#pending;
  }

  /** Size of one source's items that wait or are in flight. */
  pendingOf(source: unknown): number {
    return this.#sources.pendingOf(source);
  }

  /** Number of sources with items that wait or are in flight. */
  get sources(): number {
    return this.#sources.active;
  }

  /** Number of bulk calls in flight, counted by `slotsOf`. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Resolves with the item's own result. Rejects with its own error, or with the error that the bulk call threw. */
  run(partition: Partition, item: Item): Promise<Result> {
    const [since, size, bytes] = [performance.now(), this.#sizeOf(item), this.#bytesOf(item)];
    const source = this.#sources.enter(this.#sourceOf(item), size);
    this.#pending += size;
    return new Promise((resolve, reject) => {
      this.#add({ partition, item, size, bytes, source, since, isWaiting: true, resolve, reject, next: undefined });
    });
  }

  #leave({ size, source }: Call<Partition, Item, Result>): void {
    this.#pending -= size;
    this.#sources.leave(source, size);
  }

  #add(call: Call<Partition, Item, Result>): void {
    let line = this.#partitions.get(call.partition);
    if (!line) {
      line = new FairQueue();
      this.#partitions.set(call.partition, line);
    }
    line.push(call.source, call);
    if (this.#expiry) {
      if (this.#newest) this.#newest.next = call;
      this.#oldest ??= call;
      this.#newest = call;
    }
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= this.#maxInFlight) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      while (this.#inFlight < this.#maxInFlight) {
        const batch = this.#takeBatch();
        if (!batch) return;
        void this.#commitBatch(batch);
      }
    });
  }

  async #commitBatch({ partition, calls, isAll }: Batch<Partition, Item, Result>): Promise<void> {
    const due = this.#refuse ? calls.filter((call) => !this.#isRefused(call)) : calls;
    const items = due.map(({ item }) => item);
    const slots = isAll ? this.#slotsOf(items) : 1;
    this.#count(partition, slots);
    try {
      if (due.length === 0) return;
      const results = await this.#commit(partition, items);
      if (results.length !== due.length) throw new Error('commit must return one result per item');
      let place = 0; // `entries()` is slower, and this loop runs for every item
      for (const call of due) settle(call, results[place++] as Result | Error);
    } catch (error) {
      for (const { reject } of due) reject(error);
    } finally {
      this.#count(partition, -slots);
      for (const call of calls) this.#leave(call);
      this.#rejectExpired();
      if (this.#partitions.size > 0) this.#schedule();
    }
  }

  #count(partition: Partition, slots: number): void {
    this.#inFlight += slots;
    this.#inFlightOfPartition.add(partition, slots);
  }

  #isRefused({ item, reject }: Call<Partition, Item, Result>): boolean {
    const error = this.#refuse?.(item);
    if (error) reject(error);
    return error !== undefined;
  }

  #rejectExpired(): void {
    if (!this.#expiry) return;
    const since = performance.now() - this.#expiry.maxWaitMs;
    while (this.#oldest && (!this.#oldest.isWaiting || this.#oldest.since < since)) {
      const call = this.#oldest;
      this.#oldest = call.next;
      call.next = undefined; // otherwise a reference to this call would keep all later calls in memory
      if (call.isWaiting) this.#expire(call, this.#expiry);
    }
    if (!this.#oldest) this.#newest = undefined;
  }

  /** The call must be the oldest waiting call, so it is also the first of its source's calls in its partition. */
  #expire(call: Call<Partition, Item, Result>, { toError }: Expiry<Item>): void {
    const line = this.#partitions.get(call.partition);
    line?.dropOldest(call.source);
    if (line?.isEmpty) this.#partitions.delete(call.partition);
    call.isWaiting = false;
    this.#leave(call);
    call.reject(toError(call.item));
  }

  /** Takes a batch from the first partition below its limit, which then goes to the end. */
  #takeBatch(): Batch<Partition, Item, Result> | undefined {
    for (const [partition, line] of this.#partitions) {
      if (this.#inFlightOfPartition.of(partition) >= this.#maxInFlightPerPartition) continue;
      const calls = line.take({ size: this.#maxBatch(), bytes: this.#maxBytes });
      for (const call of calls) call.isWaiting = false;
      this.#partitions.delete(partition);
      if (!line.isEmpty) this.#partitions.set(partition, line);
      return { partition, calls, isAll: line.isEmpty };
    }
    return undefined;
  }
}

function settle<Result>({ resolve, reject }: Call<unknown, unknown, Result>, outcome: Result | Error): void {
  if (outcome instanceof Error) reject(outcome);
  else resolve(outcome);
}
