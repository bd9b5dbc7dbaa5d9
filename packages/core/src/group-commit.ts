import { FairQueue, type Measure } from './fair-queue.js';

/** A call, from its arrival to its result. `isJoined`: it shares a bulk call with the call before it, if both fit. */
class Waiting<Partition, Item, Result> {
  /** False once the call is in a bulk call or has expired. */
  isWaiting = true;
  /** The next call in order of arrival, of any partition. */
  next: Waiting<Partition, Item, Result> | undefined = undefined;

  constructor(
    readonly partition: Partition,
    readonly item: Item,
    readonly source: Source,
    readonly priority: number,
    readonly since: number,
    readonly isJoined: boolean,
    readonly resolve: (result: Result) => void,
    readonly reject: (error: unknown) => void,
  ) {}
}

/** `turns`: number of bulk calls before the next partition's turn. */
type Queued<Partition, Item, Result> = {
  line: FairQueue<Source, Item, Waiting<Partition, Item, Result>>;
  turns: number;
};

/** A partition's turn is one bulk call per source, up to this number. */
const MAX_TURNS = 8;

/** `pending`: number of the source's items that wait or are in flight. */
type Source = { key: unknown; pending: number };

/** Result or error of one call. */
export type Outcome<Result> = { result: Result; error?: undefined } | { error: unknown };

type Options<Partition, Item, Result> = {
  commit: (partition: Partition, items: Item[], priority: number) => Promise<(Result | Error)[]>;
  maxBatch: number | (() => number);
  maxInFlight: number;
  maxInFlightPerPartition: number;
  groups: { of: (partition: Partition) => unknown; maxInFlight: number };
  sourceOf: (item: Item) => unknown;
  priorityOf: (item: Item, partition: Partition) => number;
  sizeOf?: (item: Item) => number;
  bytes?: { of: (item: Item) => number; max: number };
  expiry?: { maxWaitMs: number; toError: (item: Item) => Error };
  refuse?: (item: Item) => Error | undefined;
};

type Given<Partition, Item, Result> = Pick<Options<Partition, Item, Result>, 'commit' | 'maxBatch' | 'maxInFlight'> &
  Partial<Options<Partition, Item, Result>>;

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
 * partition that arrive in one turn of the event loop, or while `maxInFlight` bulk calls are in flight, become one call of
 * `commit` with at most `maxBatch` items. There is no timer, so a lone call is not delayed.
 *
 * - `commit` returns one result per item, in order, or throws for all items. An Error as a result rejects its item.
 * - An item counts as one, or as `sizeOf` says. An item larger than `maxBatch` goes alone. If `maxBatch` is a
 *   function, each bulk call reads it. `bytes` sets a second limit of the same kind.
 * - Partitions take turns, and use memory only while calls wait in them. With `sourceOf`, the sources of a partition
 *   share its bulk calls fairly (`FairQueue`), and a partition gets one bulk call per source and turn, at most 8. With
 *   `priorityOf`, each bulk call has the priority of its most urgent items; 0 is the most urgent one.
 * - `maxInFlightPerPartition` limits the bulk calls in flight of one partition. `groups` limits those of several partitions
 *   together, such as all partitions that use one store.
 * - `expiry` bounds the wait behind bulk calls that hang: when one ends, calls that waited longer are rejected.
 * - If `refuse` returns an error for an item at its turn, the item's call is rejected.
 */
export class GroupCommit<Partition, Item, Result> {
  readonly #options: Options<Partition, Item, Result>;
  readonly #measure: Measure<Item>;
  readonly #partitions = new Map<Partition, Queued<Partition, Item, Result>>();
  readonly #inFlightOfPartition = new Tally<Partition>();
  readonly #inFlightOfGroup = new Tally<unknown>();
  readonly #sources = new Map<unknown, Source>();
  /** Linked list of the calls that may expire, oldest first. It may still contain calls that no longer wait. */
  #oldest: Waiting<Partition, Item, Result> | undefined;
  #newest: Waiting<Partition, Item, Result> | undefined;
  #pending = 0;
  #inFlight = 0;
  #scheduled = false;

  constructor(options: Given<Partition, Item, Result>) {
    const { maxInFlight, sizeOf = () => 1, bytes } = options;
    this.#measure = { sizeOf, bytesOf: bytes?.of ?? (() => 0) };
    this.#options = {
      maxInFlightPerPartition: maxInFlight,
      groups: { of: () => undefined, maxInFlight },
      sourceOf: () => undefined,
      priorityOf: () => 0,
      ...options,
    };
  }

  /** Number of items that wait or are in flight. */
  get pending(): number {
    return this.#pending;
  }

  /** Number of one source's items that wait or are in flight. */
  pendingOf(source: unknown): number {
    return this.#sources.get(source)?.pending ?? 0;
  }

  /** Number of sources with items that wait or are in flight. */
  get sources(): number {
    return this.#sources.size;
  }

  /** Number of bulk calls in flight. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Resolves with the item's own result. Rejects with its own error, or with the error that the bulk call threw. */
  run(partition: Partition, item: Item): Promise<Result> {
    const since = performance.now();
    return new Promise((resolve, reject) => {
      const priority = this.#options.priorityOf(item, partition);
      this.#add(new Waiting(partition, item, this.#enter(item), priority, since, false, resolve, reject));
    });
  }

  /**
   * Runs several calls and resolves with their outcomes, in order. It never rejects. Calls of one partition must have one
   * source and priority; they share one bulk call, in order, if they fit.
   */
  runAll(calls: { partition: Partition; item: Item }[]): Promise<Outcome<Result>[]> {
    const since = performance.now();
    const partitions = new Set<Partition>();
    const outcomes = new Array<Outcome<Result>>(calls.length);
    let open = calls.length;
    return new Promise((done) => {
      for (const [i, { partition, item }] of calls.entries()) {
        const settle = (outcome: Outcome<Result>) => {
          outcomes[i] = outcome;
          if (--open === 0) done(outcomes);
        };
        const resolve = (result: Result) => settle({ result });
        const reject = (error: unknown) => settle({ error });
        const priority = this.#options.priorityOf(item, partition);
        const isJoined = partitions.has(partition);
        this.#add(new Waiting(partition, item, this.#enter(item), priority, since, isJoined, resolve, reject));
        partitions.add(partition);
      }
      if (open === 0) done(outcomes);
    });
  }

  /** Counts the item as pending. */
  #enter(item: Item): Source {
    const key = this.#options.sourceOf(item);
    let source = this.#sources.get(key);
    if (!source) {
      source = { key, pending: 0 };
      this.#sources.set(key, source);
    }
    source.pending++;
    this.#pending++;
    return source;
  }

  #leave({ source }: Waiting<Partition, Item, Result>): void {
    this.#pending--;
    if (--source.pending === 0) this.#sources.delete(source.key);
  }

  #add(call: Waiting<Partition, Item, Result>): void {
    const { partition, source, priority } = call;
    let queued = this.#partitions.get(partition);
    if (!queued) {
      queued = { line: new FairQueue(), turns: 1 };
      this.#partitions.set(partition, queued);
    }
    queued.line.push(priority, source, call);
    if (this.#options.expiry) {
      if (this.#newest) this.#newest.next = call;
      this.#oldest ??= call;
      this.#newest = call;
    }
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= this.#options.maxInFlight) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      while (this.#inFlight < this.#options.maxInFlight) {
        const batch = this.#takeBatch();
        if (!batch) return;
        void this.#commitBatch(batch.partition, batch.priority, batch.waiting);
      }
    });
  }

  async #commitBatch(
    partition: Partition,
    priority: number,
    waiting: Waiting<Partition, Item, Result>[],
  ): Promise<void> {
    this.#inFlight++;
    this.#inFlightOfPartition.add(partition, 1);
    this.#inFlightOfGroup.add(this.#options.groups.of(partition), 1);
    const due = waiting.filter((call) => !this.#isRefused(call));
    try {
      if (due.length === 0) return;
      const results = await this.#options.commit(
        partition,
        due.map(({ item }) => item),
        priority,
      );
      if (results.length !== due.length) throw new Error('commit must return one result per item');
      let place = 0; // `entries()` is slower, and this loop runs for every item
      for (const { resolve, reject } of due) {
        const result = results[place++];
        if (result instanceof Error) reject(result);
        else resolve(result as Result);
      }
    } catch (error) {
      for (const { reject } of due) reject(error);
    } finally {
      this.#inFlight--;
      this.#inFlightOfPartition.add(partition, -1);
      this.#inFlightOfGroup.add(this.#options.groups.of(partition), -1);
      for (const call of waiting) this.#leave(call);
      this.#rejectExpired();
      if (this.#partitions.size > 0) this.#schedule();
    }
  }

  #isRefused({ item, reject }: Waiting<Partition, Item, Result>): boolean {
    const error = this.#options.refuse?.(item);
    if (error) reject(error);
    return error !== undefined;
  }

  #rejectExpired(): void {
    const { expiry } = this.#options;
    if (!expiry) return;
    const since = performance.now() - expiry.maxWaitMs;
    while (this.#oldest && (!this.#oldest.isWaiting || this.#oldest.since < since)) {
      const call = this.#oldest;
      this.#oldest = call.next;
      call.next = undefined; // otherwise a reference to this call would keep all later calls in memory
      if (call.isWaiting) this.#expire(call, expiry.toError(call.item));
    }
    if (!this.#oldest) this.#newest = undefined;
  }

  /** The call must be the oldest waiting call, so it is also the first of its source's calls in its partition and priority. */
  #expire(call: Waiting<Partition, Item, Result>, error: Error): void {
    const line = this.#partitions.get(call.partition)?.line;
    line?.dropOldest(call.priority, call.source);
    if (line?.sources === 0) this.#partitions.delete(call.partition);
    call.isWaiting = false;
    this.#leave(call);
    call.reject(error);
  }

  /** Takes a batch from the first partition below its limits. A partition that has used its turns goes to the end. */
  #takeBatch() {
    const { maxBatch, bytes, maxInFlightPerPartition, groups } = this.#options;
    for (const [partition, queued] of this.#partitions) {
      if (this.#inFlightOfPartition.of(partition) >= maxInFlightPerPartition) continue;
      if (this.#inFlightOfGroup.of(groups.of(partition)) >= groups.maxInFlight) continue;
      const { line } = queued;
      const size = typeof maxBatch === 'number' ? maxBatch : maxBatch();
      const { priority, calls: waiting } = line.take(
        { size, bytes: bytes?.max ?? Number.POSITIVE_INFINITY },
        this.#measure,
      );
      for (const call of waiting) call.isWaiting = false;
      queued.turns--;
      if (line.sources === 0 || queued.turns === 0) this.#partitions.delete(partition);
      if (line.sources > 0 && queued.turns === 0) {
        queued.turns = Math.min(line.sources, MAX_TURNS);
        this.#partitions.set(partition, queued);
      }
      return { partition, priority, waiting };
    }
    return undefined;
  }
}
