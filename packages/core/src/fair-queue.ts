/** The largest share of a batch that a source may fill per turn. */
const MAX_QUANTUM = 1 / 8;
/** Number of removed items at which a `Fifo` may copy its array to free memory. */
const MIN_DROPPED = 64;

/** How much of a batch a call fills: its size, as a count, and its bytes. Also the limits of a batch. */
export type Room = { size: number; bytes: number };

/** A first-in, first-out queue. An array's `shift` is slow if the array is long. */
class Fifo<T> {
  #items: (T | undefined)[];
  #head = 0;

  constructor(first: T) {
    this.#items = [first]; // V8 reserves room for 17 items when an empty array gets its first item
  }

  get length(): number {
    return this.#items.length - this.#head;
  }

  get first(): T | undefined {
    return this.#items[this.#head];
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** Removes the first item. */
  drop(): void {
    this.#items[this.#head++] = undefined;
    if (2 * this.#head < this.#items.length || this.#head < MIN_DROPPED) return;
    this.#items = this.#items.slice(this.#head);
    this.#head = 0;
  }
}

/**
 * A queue that several sources share fairly. They take turns to fill a batch, and each source keeps its order of
 * arrival. A turn fills at most about an eighth of a batch, and all turns of a round about one batch. With more sources
 * than a batch has room for, each turn takes one call.
 *
 * Algorithm: surplus round robin (Adiseshu et al., SIGCOMM 1996). It differs from deficit round robin (Shreedhar and
 * Varghese, SIGCOMM 1995) in one point: an item that exceeds the source's credit is taken, and the credit becomes
 * negative.
 */
export class FairQueue<Key, Call extends Room> {
  /** The calls of each source, in the order of the sources' turns. */
  readonly #turns = new Map<Key, { calls: Fifo<Call>; credit: number }>();

  get isEmpty(): boolean {
    return this.#turns.size === 0;
  }

  push(source: Key, call: Call): void {
    const turn = this.#turns.get(source);
    if (turn) turn.calls.push(call);
    else this.#turns.set(source, { calls: new Fifo(call), credit: Number.EPSILON }); // enough for one call
  }

  /** Removes the oldest call of a source. */
  dropOldest(source: Key): void {
    const calls = this.#turns.get(source)?.calls;
    calls?.drop();
    if (calls?.length === 0) this.#turns.delete(source);
  }

  /** Removes and returns the calls of the next batch. A call that exceeds the limits becomes a batch alone. */
  take(batch: Room): Call[] {
    const left = { ...batch };
    const taken: Call[] = [];
    const quantum = Math.max(1 / batch.size, Math.min(MAX_QUANTUM, 1 / this.#turns.size));
    for (const [source, turn] of this.#turns) {
      // A Map's iterator visits a key again if the loop deletes it and sets it anew.
      while (turn.credit > 0 && turn.calls.length > 0) {
        const call = turn.calls.first as Call;
        const { size, bytes } = call;
        const isFitting = size <= left.size && bytes <= left.bytes;
        if (!isFitting && taken.length > 0) return taken; // the next batch starts with it
        taken.push(call);
        turn.calls.drop();
        left.size -= size;
        left.bytes -= bytes;
        turn.credit -= Math.max(size / batch.size, bytes / batch.bytes);
      }
      this.#turns.delete(source);
      if (turn.calls.length === 0) continue;
      turn.credit += quantum;
      this.#turns.set(source, turn);
    }
    return taken;
  }
}

/** `pending`: size of the source's items that wait or are in flight. */
export type Source = { pending: number };

const MAX_IDLE_SOURCES = 10_000;

/**
 * Counts the pending items of each source. Idle sources stay until there are 10,000: adding and removing them all the
 * time resizes the Map, and V8 moves its outgrown tables, each of which points to the next, into the old generation.
 */
export class Sources {
  readonly #sources = new Map<unknown, Source>();
  #idle = 0;

  /** Number of sources with pending items. */
  get active(): number {
    return this.#sources.size - this.#idle;
  }

  pendingOf(key: unknown): number {
    return this.#sources.get(key)?.pending ?? 0;
  }

  /** Counts an item of a source as pending. */
  enter(key: unknown, size: number): Source {
    let source = this.#sources.get(key);
    if (!source) {
      source = { pending: 0 };
      this.#sources.set(key, source);
    } else if (source.pending === 0) this.#idle--;
    source.pending += size;
    return source;
  }

  leave(source: Source, size: number): void {
    source.pending -= size;
    if (source.pending > 0 || ++this.#idle <= MAX_IDLE_SOURCES) return;
    for (const [key, { pending }] of this.#sources) if (pending === 0) this.#sources.delete(key);
    this.#idle = 0;
  }
}
