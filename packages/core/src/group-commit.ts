type Waiting<Item, Result> = { item: Item; resolve: (result: Result) => void; reject: (error: unknown) => void };

/**
 * Turns concurrent calls into bulk calls: what arrives for one lane during one turn of the event loop, or while all
 * `maxInFlight` bulk calls are under way, becomes one call of `commit` with at most `maxBatch` items. There are no
 * timers, so a lone call is not delayed. (Group commit as databases do it: DeWitt et al., SIGMOD 1984.)
 *
 * `commit` answers with one result per item, in order, or throws for all of them. Lanes take turns, and a lane costs
 * memory only while something waits in it.
 */
export class GroupCommit<Lane, Item, Result> {
  readonly #commit: (lane: Lane, items: Item[]) => Promise<Result[]>;
  readonly #maxBatch: number;
  readonly #maxInFlight: number;
  readonly #lanes = new Map<Lane, Waiting<Item, Result>[]>();
  #inFlight = 0;
  #scheduled = false;

  constructor(options: {
    commit: (lane: Lane, items: Item[]) => Promise<Result[]>;
    maxBatch: number;
    maxInFlight: number;
  }) {
    this.#commit = options.commit;
    this.#maxBatch = options.maxBatch;
    this.#maxInFlight = options.maxInFlight;
  }

  /** Resolves with the item's own result, or rejects with what the bulk call threw. */
  run(lane: Lane, item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      const waiting = this.#lanes.get(lane);
      if (waiting) waiting.push({ item, resolve, reject });
      else this.#lanes.set(lane, [{ item, resolve, reject }]);
      this.#schedule();
    });
  }

  /** Bulk calls under way now. */
  get inFlight(): number {
    return this.#inFlight;
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= this.#maxInFlight) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      while (this.#inFlight < this.#maxInFlight && this.#lanes.size > 0) void this.#commitNext();
    });
  }

  async #commitNext(): Promise<void> {
    const batch = this.#takeBatch();
    if (!batch) return;
    const { lane, waiting } = batch;
    this.#inFlight++;
    try {
      const results = await this.#commit(
        lane,
        waiting.map(({ item }) => item),
      );
      if (results.length !== waiting.length) throw new Error('commit must answer with one result per item');
      for (const [i, { resolve }] of waiting.entries()) resolve(results[i] as Result);
    } catch (error) {
      for (const { reject } of waiting) reject(error);
    } finally {
      this.#inFlight--;
      if (this.#lanes.size > 0) this.#schedule();
    }
  }

  /** The head of the lane that has waited longest; what is left of it goes to the end of the line. */
  #takeBatch(): { lane: Lane; waiting: Waiting<Item, Result>[] } | undefined {
    for (const [lane, waiting] of this.#lanes) {
      this.#lanes.delete(lane);
      if (waiting.length > this.#maxBatch) this.#lanes.set(lane, waiting.splice(this.#maxBatch));
      return { lane, waiting };
    }
    return undefined;
  }
}
