/** The share of a batch that a source may fill per turn. */
const QUANTUM = 1 / 8;
/** The least share of a batch's calls that have its priority. */
const MIN_SHARE = 1 / 4;
/** Larger than the rounding errors of a sum of shares. */
const ROUNDING = 1e-9;
/** Number of removed items at which a `Fifo` may copy its array to free memory. */
const MIN_DROPPED = 64;

/** How much of a batch an item fills: its size, as a count, and its bytes. */
export type Measure<Item> = { sizeOf: (item: Item) => number; bytesOf: (item: Item) => number };

/** The limits of a batch. */
type Room = { size: number; bytes: number };

type Queued<Item> = {
  item: Item;
  /** Goes into the same batch as the call before it, if both fit. */
  isJoined: boolean;
};

/** A first-in, first-out queue. An array's `shift` is slow if the array is long. */
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

  /** Removes the first `count` items. */
  drop(count: number): void {
    for (const end = this.#head + count; this.#head < end; this.#head++) this.#items[this.#head] = undefined;
    if (2 * this.#head < this.#items.length || this.#head < MIN_DROPPED) return;
    this.#items = this.#items.slice(this.#head);
    this.#head = 0;
  }
}

/** A batch that is being filled. `left` is negative in a batch of one call that exceeds the limits. */
type Filling<Call> = { limits: Room; left: Room; calls: Call[] };

/**
 * Calls of one priority. Their sources take turns, and each source keeps its order of arrival. A source with a long backlog
 * delays the others by an eighth of a batch.
 *
 * Algorithm: surplus round robin (Adiseshu et al., SIGCOMM 1996). It differs from deficit round robin (Shreedhar and
 * Varghese, SIGCOMM 1995) in one point: an item that exceeds the source's credit is taken, and the credit becomes
 * negative.
 */
class Line<Source, Item, Call extends Queued<Item>> {
  /** The calls of each source, in the order of the sources' turns. */
  readonly #turns = new Map<Source, { calls: Fifo<Call>; credit: number }>();

  get sources(): number {
    return this.#turns.size;
  }

  push(source: Source, call: Call): void {
    let turn = this.#turns.get(source);
    if (!turn) {
      turn = { calls: new Fifo(), credit: QUANTUM };
      this.#turns.set(source, turn);
    }
    turn.calls.push(call);
  }

  dropOldest(source: Source): void {
    const calls = this.#turns.get(source)?.calls;
    calls?.drop(1);
    if (calls?.length === 0) this.#turns.delete(source);
  }

  /** Moves calls into the batch, up to this share of it. An empty batch gets at least one call. @returns their share */
  moveTo({ limits, left, calls }: Filling<Call>, maxShare: number, measure: Measure<Item>): number {
    let share = 0;
    for (const [source, turn] of this.#turns) {
      // A Map's iterator visits a key again if the loop deletes it and sets it anew.
      while (turn.credit > 0 && turn.calls.length > 0) {
        const { count, size, bytes } = measureNext(turn.calls, limits, measure);
        const added = Math.max(size / limits.size, bytes / limits.bytes);
        const isFitting = size <= left.size && bytes <= left.bytes && share + added < maxShare + ROUNDING;
        if (!isFitting && calls.length > 0) return share; // the source keeps its turn
        for (let i = 0; i < count; i++) calls.push(turn.calls.at(i) as Call);
        turn.calls.drop(count);
        left.size -= size;
        left.bytes -= bytes;
        share += added;
        turn.credit -= added;
      }
      this.#turns.delete(source);
      if (turn.calls.length === 0) continue;
      turn.credit += QUANTUM;
      this.#turns.set(source, turn);
    }
    return share;
  }
}

/**
 * A queue that several sources share fairly ({@link Line}). Calls of different priorities share a batch, or batches would
 * be small. The batch has the priority of its most urgent calls. At least a quarter of what it contains is theirs, so that
 * the others delay them little; the other priorities share the rest. So that nobody is shut out, a priority that got no part
 * of a batch comes first in the next one, which then contains nothing more urgent.
 */
export class FairQueue<Source, Item, Call extends Queued<Item>> {
  /** By priority; 0 is the most urgent one. */
  readonly #lines: Line<Source, Item, Call>[] = [];
  /** The priority that comes first in the next batch, if it waits. */
  #next = 0;

  /** Number of sources with queued calls, counted once per priority. */
  get sources(): number {
    return this.#lines.reduce((sum, line) => sum + line.sources, 0);
  }

  push(priority: number, source: Source, call: Call): void {
    while (this.#lines.length <= priority) this.#lines.push(new Line());
    this.#lines[priority]?.push(source, call);
  }

  /** Removes the oldest call of a source with this priority. */
  dropOldest(priority: number, source: Source): void {
    this.#lines[priority]?.dropOldest(source);
  }

  /** Removes and returns the calls of the next batch. A call that exceeds the limits becomes a batch alone. */
  take(limits: Room, measure: Measure<Item>): { priority: number; calls: Call[] } {
    const isWaiting = (priority: number) => (this.#lines[priority]?.sources ?? 0) > 0;
    const waiting = [...this.#lines.keys()].filter(isWaiting);
    const priority = isWaiting(this.#next) ? this.#next : (waiting[0] ?? 0);
    const filling: Filling<Call> = { limits, left: { ...limits }, calls: [] };
    const own = this.#lines[priority]?.moveTo(filling, Number.POSITIVE_INFINITY, measure) ?? 0;
    const others = waiting.filter((other) => other > priority);
    let free = Math.min(1 - own, own / MIN_SHARE - own);
    const shares = others.map((other, i) => {
      const share = this.#lines[other]?.moveTo(filling, free / (others.length - i), measure) ?? 0;
      free -= share;
      return share;
    });
    this.#next = others[shares.indexOf(0)] ?? 0;
    return { priority, calls: filling.calls };
  }
}

/** Measures the next call and the calls joined to it, as many as fit into an empty batch. */
function measureNext<Item>(calls: Fifo<Queued<Item>>, batch: Room, { sizeOf, bytesOf }: Measure<Item>) {
  let count = 0;
  let size = 0;
  let bytes = 0;
  for (let call = calls.at(0); call && (count === 0 || call.isJoined); call = calls.at(count)) {
    const nextSize = size + sizeOf(call.item);
    const nextBytes = bytes + bytesOf(call.item);
    if (count > 0 && (nextSize > batch.size || nextBytes > batch.bytes)) break;
    count++;
    size = nextSize;
    bytes = nextBytes;
  }
  return { count, size, bytes };
}
