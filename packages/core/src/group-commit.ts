type Waiting<Item, Result> = {
  item: Item;
  since: number;
  /** Never in another bulk call than the one before it. */
  isJoined: boolean;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
};

type Batch<Lane, Item, Result> = { lane: Lane; waiting: Waiting<Item, Result>[] };

/** What a call got: its result, or the error. */
export type Outcome<Result> = { result: Result; error?: undefined } | { error: unknown };

type Groups<Lane> = { of: (lane: Lane) => unknown; maxInFlight: number };

type Expiry<Item> = { maxWaitMs: number; toError: (item: Item) => Error };

/** Numbers by key, of which none is kept that is 0. */
class Tally<Key> {
  readonly #counts = new Map<Key, number>();

  of(key: Key): number {
    return this.#counts.get(key) ?? 0;
  }

  add(key: Key, some: number): void {
    const count = this.of(key) + some;
    if (count === 0) this.#counts.delete(key);
    else this.#counts.set(key, count);
  }
}

/**
 * Turns concurrent calls into bulk calls: what arrives for one lane during one turn of the event loop, or while all
 * `maxInFlight` bulk calls are under way, becomes one call of `commit` of at most `maxBatch` items. There are no
 * timers, so a lone call is not delayed. (Group commit as databases do it: DeWitt et al., SIGMOD 1984.)
 * An item counts as one, or as what `sizeOf` says; one that is larger than `maxBatch` goes alone. Where `maxBatch` is a
 * function, it is asked for each bulk call.
 *
 * With `maxInFlightPerLane` a lane has so many of the bulk calls under way at most, however many there may be in all; and with
 * `groups` so have the lanes together that are of one group, such as those whose calls go to the same store.
 *
 * `commit` answers with one result per item, in order, or throws for all of them. Lanes take turns, and a lane costs
 * memory only while something waits in it. What has waited for longer than `expiry` when its turn could come is rejected:
 * behind calls that hang, nobody waits for more than their time-out. So is, when its turn comes, what `refuse` has an error for.
 */
export class GroupCommit<Lane, Item, Result> {
  readonly #commit: (lane: Lane, items: Item[]) => Promise<Result[]>;
  readonly #maxBatch: () => number;
  readonly #sizeOf: (item: Item) => number;
  readonly #maxInFlight: number;
  readonly #maxInFlightPerLane: number;
  readonly #expiry: Expiry<Item> | undefined;
  readonly #refuse: ((item: Item) => Error | undefined) | undefined;
  readonly #lanes = new Map<Lane, Waiting<Item, Result>[]>();
  readonly #groups: Groups<Lane>;
  readonly #inFlightOfLane = new Tally<Lane>();
  readonly #inFlightOfGroup = new Tally<unknown>();
  #pending = 0;
  #inFlight = 0;
  #scheduled = false;

  constructor(options: {
    commit: (lane: Lane, items: Item[]) => Promise<Result[]>;
    maxBatch: number | (() => number);
    maxInFlight: number;
    maxInFlightPerLane?: number;
    groups?: Groups<Lane>;
    sizeOf?: (item: Item) => number;
    expiry?: Expiry<Item>;
    refuse?: (item: Item) => Error | undefined;
  }) {
    this.#commit = options.commit;
    const { maxBatch } = options;
    this.#maxBatch = typeof maxBatch === 'number' ? () => maxBatch : maxBatch;
    this.#maxInFlight = options.maxInFlight;
    this.#maxInFlightPerLane = options.maxInFlightPerLane ?? options.maxInFlight;
    this.#groups = options.groups ?? { of: () => undefined, maxInFlight: options.maxInFlight };
    this.#sizeOf = options.sizeOf ?? (() => 1);
    this.#expiry = options.expiry;
    this.#refuse = options.refuse;
  }

  /** Items that wait or are under way. */
  get pending(): number {
    return this.#pending;
  }

  /** Bulk calls under way. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Resolves with the item's own result, or rejects with what the bulk call threw. */
  run(lane: Lane, item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#add(lane, { item, since: performance.now(), isJoined: false, resolve, reject });
    });
  }

  /**
   * The same for each call, with one promise for all: it resolves with what each got, in order. Those of one lane share one
   * bulk call, in order, where they fit into one.
   */
  runAll(calls: { lane: Lane; item: Item }[]): Promise<Outcome<Result>[]> {
    const since = performance.now();
    const lanes = new Set<Lane>();
    const outcomes = new Array<Outcome<Result>>(calls.length);
    let open = calls.length;
    return new Promise((done) => {
      for (const [i, { lane, item }] of calls.entries()) {
        const settle = (outcome: Outcome<Result>) => {
          outcomes[i] = outcome;
          if (--open === 0) done(outcomes);
        };
        const resolve = (result: Result) => settle({ result });
        this.#add(lane, { item, since, isJoined: lanes.has(lane), resolve, reject: (error) => settle({ error }) });
        lanes.add(lane);
      }
      if (open === 0) done(outcomes);
    });
  }

  #add(lane: Lane, call: Waiting<Item, Result>): void {
    this.#pending++;
    const waiting = this.#lanes.get(lane);
    if (waiting) waiting.push(call);
    else this.#lanes.set(lane, [call]);
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

  async #commitBatch({ lane, waiting }: Batch<Lane, Item, Result>): Promise<void> {
    this.#inFlight++;
    this.#inFlightOfLane.add(lane, 1);
    this.#inFlightOfGroup.add(this.#groups.of(lane), 1);
    const due = this.#refuse ? waiting.filter((call) => !this.#isRefused(call)) : waiting;
    try {
      if (due.length === 0) return;
      const results = await this.#commit(
        lane,
        due.map(({ item }) => item),
      );
      if (results.length !== due.length) throw new Error('commit must answer with one result per item');
      for (let i = 0; i < due.length; i++) due[i]?.resolve(results[i] as Result);
    } catch (error) {
      for (const { reject } of due) reject(error);
    } finally {
      this.#inFlight--;
      this.#inFlightOfLane.add(lane, -1);
      this.#inFlightOfGroup.add(this.#groups.of(lane), -1);
      this.#pending -= waiting.length;
      this.#rejectExpired();
      if (this.#lanes.size > 0) this.#schedule();
    }
  }

  #isRefused({ item, reject }: Waiting<Item, Result>): boolean {
    const error = this.#refuse?.(item);
    if (error) reject(error);
    return error !== undefined;
  }

  #rejectExpired(): void {
    if (!this.#expiry) return;
    const oldest = performance.now() - this.#expiry.maxWaitMs;
    for (const [lane, waiting] of this.#lanes) {
      const kept = waiting.findIndex(({ since }) => since >= oldest);
      const expired = waiting.splice(0, kept < 0 ? waiting.length : kept);
      this.#pending -= expired.length;
      for (const { item, reject } of expired) reject(this.#expiry.toError(item));
      if (waiting.length === 0) this.#lanes.delete(lane);
    }
  }

  /** The head of the lane that has waited longest, of those that may; what is left of it goes to the end of the line. */
  #takeBatch(): Batch<Lane, Item, Result> | undefined {
    for (const [lane, waiting] of this.#lanes) {
      if (this.#inFlightOfLane.of(lane) >= this.#maxInFlightPerLane) continue;
      if (this.#inFlightOfGroup.of(this.#groups.of(lane)) >= this.#groups.maxInFlight) continue;
      this.#lanes.delete(lane);
      const fitting = this.#countFitting(waiting);
      if (fitting < waiting.length) this.#lanes.set(lane, waiting.splice(fitting));
      return { lane, waiting };
    }
    return undefined;
  }

  #countFitting(waiting: Waiting<Item, Result>[]): number {
    const maxBatch = this.#maxBatch();
    let size = 0;
    const surplus = waiting.findIndex(({ item }, i) => {
      size += this.#sizeOf(item);
      return size > maxBatch && i > 0;
    });
    if (surplus < 0) return waiting.length;
    let start = surplus;
    while (waiting[start]?.isJoined) start--;
    return start > 0 ? start : surplus;
  }
}
