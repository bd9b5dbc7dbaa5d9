type Waiting<Lane, Item, Result> = {
  lane: Lane;
  item: Item;
  source: Source;
  since: number;
  /** Never in another bulk call than the one before it. */
  isJoined: boolean;
  /** Neither taken nor expired. */
  isWaiting: boolean;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
  /** The call that came next, in whatever lane. */
  next: Waiting<Lane, Item, Result> | undefined;
};

type Batch<Lane, Item, Result> = { lane: Lane; waiting: Waiting<Lane, Item, Result>[] };

/** The part of a bulk call that a source may take before the next one has its turn. */
const QUANTUM = 1 / 8;
/** As many bulk calls as a lane has sources it may have one after the other, and no more than these. */
const MAX_TURNS = 8;
/** Before an array is copied without its first items, for the sake of their memory. */
const MIN_DROPPED = 64;

/** Who calls, and how many of its items wait or are under way. */
type Source = { key: unknown; pending: number };

/** First in, first out, without the cost of an array's `shift` where much waits. */
class Fifo<T> {
  #items: (T | undefined)[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  at(i: number): T | undefined {
    return this.#items[this.#head + i];
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** Takes the first ones out. */
  drop(count: number): void {
    for (const end = this.#head + count; this.#head < end; this.#head++) this.#items[this.#head] = undefined;
    if (2 * this.#head < this.#items.length || this.#head < MIN_DROPPED) return;
    this.#items = this.#items.slice(this.#head);
    this.#head = 0;
  }
}

/** What waits in a lane, by source. The first source has its turn. */
class Line<Lane, Item, Result> extends Map<Source, { calls: Fifo<Waiting<Lane, Item, Result>>; credit: number }> {
  /** Bulk calls before the next lane has its turn. */
  turns = 1;
}

/** What a call got: its result, or the error. */
export type Outcome<Result> = { result: Result; error?: undefined } | { error: unknown };

type Groups<Lane> = { of: (lane: Lane) => unknown; maxInFlight: number };

type Bytes<Item> = { of: (item: Item) => number; max: number };

type Expiry<Item> = { maxWaitMs: number; toError: (item: Item) => Error };

/** Numbers by key, of which none is kept that is 0. */
class Tally<Key> {
  readonly #counts = new Map<Key, number>();

  of(key: Key): number {
    return this.#counts.get(key) ?? 0;
  }

  get size(): number {
    return this.#counts.size;
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
 * function, it is asked for each bulk call. With `bytes` a bulk call has a second limit of the same kind.
 *
 * With `sourceOf`, the sources in a lane take turns to fill a bulk call, each in order of arrival: one that has much to say
 * delays the others by an eighth of a call. And a lane with eight sources or more has eight turns where one with a single
 * source has one. (Surplus round robin: Adiseshu et al., SIGCOMM 1996. It is deficit round robin,
 * Shreedhar and Varghese, SIGCOMM 1995, but for an item that is larger than what is left: it is taken, and paid for later.)
 *
 * With `maxInFlightPerLane` a lane has so many of the bulk calls under way at most, however many there may be in all; and with
 * `groups` so have the lanes together that are of one group, such as those whose calls go to the same store.
 *
 * `commit` answers with one result per item, in order, or throws for all of them; a result that is an Error rejects its item.
 * Lanes take turns, and a lane costs memory only while something waits in it. What has waited for longer than `expiry` when its
 * turn could come is rejected: behind calls that hang, nobody waits for more than their time-out. So is, when its turn comes,
 * what `refuse` has an error for.
 */
export class GroupCommit<Lane, Item, Result> {
  readonly #commit: (lane: Lane, items: Item[]) => Promise<(Result | Error)[]>;
  readonly #maxBatch: () => number;
  readonly #sizeOf: (item: Item) => number;
  readonly #bytes: Bytes<Item>;
  readonly #sourceOf: (item: Item) => unknown;
  readonly #maxInFlight: number;
  readonly #maxInFlightPerLane: number;
  readonly #expiry: Expiry<Item> | undefined;
  readonly #refuse: ((item: Item) => Error | undefined) | undefined;
  readonly #lanes = new Map<Lane, Line<Lane, Item, Result>>();
  readonly #groups: Groups<Lane>;
  readonly #inFlightOfLane = new Tally<Lane>();
  readonly #inFlightOfGroup = new Tally<unknown>();
  readonly #sources = new Map<unknown, Source>();
  /** What may expire, in order of arrival, and some that is taken already. */
  #oldest: Waiting<Lane, Item, Result> | undefined;
  #newest: Waiting<Lane, Item, Result> | undefined;
  #pending = 0;
  #inFlight = 0;
  #scheduled = false;

  constructor(options: {
    commit: (lane: Lane, items: Item[]) => Promise<(Result | Error)[]>;
    maxBatch: number | (() => number);
    maxInFlight: number;
    maxInFlightPerLane?: number;
    groups?: Groups<Lane>;
    sizeOf?: (item: Item) => number;
    bytes?: Bytes<Item>;
    sourceOf?: (item: Item) => unknown;
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
    this.#bytes = options.bytes ?? { of: () => 0, max: Number.POSITIVE_INFINITY };
    this.#sourceOf = options.sourceOf ?? (() => undefined);
    this.#expiry = options.expiry;
    this.#refuse = options.refuse;
  }

  /** Items that wait or are under way. */
  get pending(): number {
    return this.#pending;
  }

  /** The same of one source. */
  pendingOf(source: unknown): number {
    return this.#sources.get(source)?.pending ?? 0;
  }

  /** Sources that have items that wait or are under way. */
  get sources(): number {
    return this.#sources.size;
  }

  /** Bulk calls under way. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Resolves with the item's own result, or rejects with what the bulk call threw. */
  run(lane: Lane, item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#add({
        lane,
        item,
        source: this.#enter(item),
        since: performance.now(),
        isJoined: false,
        isWaiting: true,
        resolve,
        reject,
        next: undefined,
      });
    });
  }

  /**
   * The same for each call, with one promise for all: it resolves with what each got, in order. Those of one lane share one
   * bulk call, in order, if they fit into one; all calls of a lane have one source.
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
        const reject = (error: unknown) => settle({ error });
        const source = this.#enter(item);
        const isJoined = lanes.has(lane);
        this.#add({ lane, item, source, since, isJoined, isWaiting: true, resolve, reject, next: undefined });
        lanes.add(lane);
      }
      if (open === 0) done(outcomes);
    });
  }

  /** Counts an item for its source. */
  #enter(item: Item): Source {
    const key = this.#sourceOf(item);
    let source = this.#sources.get(key);
    if (!source) {
      source = { key, pending: 0 };
      this.#sources.set(key, source);
    }
    source.pending++;
    this.#pending++;
    return source;
  }

  #leave({ source }: Waiting<Lane, Item, Result>): void {
    this.#pending--;
    if (--source.pending === 0) this.#sources.delete(source.key);
  }

  #add(call: Waiting<Lane, Item, Result>): void {
    const line = this.#lanes.get(call.lane) ?? new Line<Lane, Item, Result>();
    if (line.size === 0) this.#lanes.set(call.lane, line);
    const known = line.get(call.source);
    if (known) known.calls.push(call);
    else {
      const calls = new Fifo<Waiting<Lane, Item, Result>>();
      calls.push(call);
      line.set(call.source, { calls, credit: QUANTUM });
    }
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
      let place = 0; // not `entries()`: that is slow, for every item
      for (const call of due) settle(call, results[place++] as Result | Error);
    } catch (error) {
      for (const { reject } of due) reject(error);
    } finally {
      this.#inFlight--;
      this.#inFlightOfLane.add(lane, -1);
      this.#inFlightOfGroup.add(this.#groups.of(lane), -1);
      for (const call of waiting) this.#leave(call);
      this.#rejectExpired();
      if (this.#lanes.size > 0) this.#schedule();
    }
  }

  #isRefused({ item, reject }: Waiting<Lane, Item, Result>): boolean {
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
      call.next = undefined; // or whoever keeps this call would keep all later ones
      if (call.isWaiting) this.#expire(call, this.#expiry);
    }
    if (!this.#oldest) this.#newest = undefined;
  }

  /** Its source took it before all that came later, so it is the first there. */
  #expire(call: Waiting<Lane, Item, Result>, { toError }: Expiry<Item>): void {
    const line = this.#lanes.get(call.lane);
    const calls = line?.get(call.source)?.calls;
    calls?.drop(1);
    if (calls?.length === 0) line?.delete(call.source);
    if (line?.size === 0) this.#lanes.delete(call.lane);
    call.isWaiting = false;
    this.#leave(call);
    call.reject(toError(call.item));
  }

  /** From the first lane, of those that may; when it has had its turns, what is left of it goes to the end of the line. */
  #takeBatch(): Batch<Lane, Item, Result> | undefined {
    for (const [lane, line] of this.#lanes) {
      if (this.#inFlightOfLane.of(lane) >= this.#maxInFlightPerLane) continue;
      if (this.#inFlightOfGroup.of(this.#groups.of(lane)) >= this.#groups.maxInFlight) continue;
      const waiting = this.#fill(line);
      for (const call of waiting) call.isWaiting = false;
      line.turns--;
      if (line.size === 0 || line.turns === 0) this.#lanes.delete(lane);
      if (line.size > 0 && line.turns === 0) {
        line.turns = Math.min(line.size, MAX_TURNS);
        this.#lanes.set(lane, line);
      }
      return { lane, waiting };
    }
    return undefined;
  }

  #fill(line: Line<Lane, Item, Result>): Waiting<Lane, Item, Result>[] {
    const room = { size: this.#maxBatch(), bytes: this.#bytes.max };
    const whole = { ...room };
    const taken: Waiting<Lane, Item, Result>[] = [];
    for (const [source, turn] of line) {
      // An entry that is set anew while a Map is iterated over is met again at its end.
      while (turn.credit > 0 && turn.calls.length > 0) {
        const { count, size, bytes } = this.#measureNext(turn.calls, whole);
        const isFitting = size <= room.size && bytes <= room.bytes;
        if (!isFitting && taken.length > 0) return taken; // it is first in the next call
        for (let i = 0; i < count; i++) taken.push(turn.calls.at(i) as Waiting<Lane, Item, Result>);
        turn.calls.drop(count);
        room.size -= size;
        room.bytes -= bytes;
        turn.credit -= Math.max(size / whole.size, bytes / whole.bytes);
      }
      line.delete(source);
      if (turn.calls.length === 0) continue;
      turn.credit += QUANTUM;
      line.set(source, turn);
    }
    return taken;
  }

  /** The next call of a source, and those that are joined to it, as far as they fit into an empty bulk call. */
  #measureNext(calls: Fifo<Waiting<Lane, Item, Result>>, whole: { size: number; bytes: number }) {
    let count = 0;
    let size = 0;
    let bytes = 0;
    for (let call = calls.at(0); call && (count === 0 || call.isJoined); call = calls.at(count)) {
      const nextSize = size + this.#sizeOf(call.item);
      const nextBytes = bytes + this.#bytes.of(call.item);
      if (count > 0 && (nextSize > whole.size || nextBytes > whole.bytes)) break;
      count++;
      size = nextSize;
      bytes = nextBytes;
    }
    return { count, size, bytes };
  }
}

function settle<Result>({ resolve, reject }: Waiting<unknown, unknown, Result>, outcome: Result | Error): void {
  if (outcome instanceof Error) reject(outcome);
  else resolve(outcome);
}
