/** What one customer's turn is about: an entry, or an erasure, which has no body. */
export interface Task {
  customerId: string;
  /** JSON. */
  entry?: string;
  call: { readonly isSettled: boolean };
}

export interface Limits {
  maxEntries: number;
  /** Of the array, in UTF-8. */
  maxBytes: number;
}

export interface TakeOptions<T extends Task> {
  isWanted?: (task: T) => boolean;
  /** Fewer than the limit. */
  maxEntries?: number;
}

/**
 * What waits for its turn, in one lane per customer. A customer is in one request at a time, so that two of them cannot
 * overtake each other; the other lanes go on meanwhile, the one that has waited longest first.
 */
export class Lanes<T extends Task> {
  readonly #limits: Limits;
  readonly #ready = new Map<string, T[]>();
  /** Customers with a request under way, and what waits behind it. */
  readonly #busy = new Map<string, T[]>();

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  add(task: T): void {
    const lane = this.#busy.get(task.customerId) ?? this.#ready.get(task.customerId);
    if (lane) lane.push(task);
    else this.#ready.set(task.customerId, [task]);
  }

  /**
   * The tasks of the next request: entries, or one erasure; empty where none may go. Those that are not wanted are dropped.
   */
  take({ isWanted = isOpen, maxEntries = this.#limits.maxEntries }: TakeOptions<T> = {}): T[] {
    const request = new Filling<T>({ ...this.#limits, maxEntries });
    for (const [customerId, lane] of this.#ready) {
      const before = request.tasks.length;
      let next = 0;
      for (const task of lane) {
        if (isWanted(task) && !request.add(task)) break;
        next++;
      }
      const rest = lane.slice(next);
      if (request.tasks.length > before) this.#busy.set(customerId, rest);
      if (request.tasks.length > before || rest.length === 0) this.#ready.delete(customerId);
      if (request.isFull) break;
    }
    return request.tasks;
  }

  /** Lets the lanes of a request that is over go on, first of all with those of its tasks that have to be sent again. */
  release(tasks: readonly T[], again: readonly T[] = []): void {
    for (const { customerId } of tasks) {
      const rest = this.#busy.get(customerId);
      this.#busy.delete(customerId);
      if (rest && rest.length > 0) this.#ready.set(customerId, rest);
    }
    if (again.length > 0) this.#putBack(again);
  }

  /** Whether there is something that may go. Each task is asked. */
  isWaiting(isWanted: (task: T) => boolean = isOpen): boolean {
    let isAny = false;
    for (const task of [...this.#ready.values()].flat()) isAny = isWanted(task) || isAny;
    return isAny;
  }

  #putBack(tasks: readonly T[]): void {
    const others = [...this.#ready];
    this.#ready.clear();
    for (const task of tasks) this.add(task);
    for (const [customerId, lane] of others) {
      this.#ready.set(customerId, [...(this.#ready.get(customerId) ?? []), ...lane]);
    }
  }
}

const isOpen = ({ call }: Task): boolean => !call.isSettled;

class Filling<T extends Task> {
  readonly tasks: T[] = [];
  isFull = false;
  readonly #limits: Limits;
  #bytes = '[]'.length;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  /** False where the task has to wait for another request. */
  add(task: T): boolean {
    if (task.entry === undefined) return this.#addErasure(task);
    const bytes = this.#bytes + Buffer.byteLength(task.entry) + (this.tasks.length > 0 ? ','.length : 0);
    if (this.isFull || this.tasks.length >= this.#limits.maxEntries || bytes > this.#limits.maxBytes) {
      this.isFull = true;
      return false;
    }
    this.#bytes = bytes;
    this.tasks.push(task);
    return true;
  }

  #addErasure(task: T): boolean {
    if (this.tasks.length > 0) return false;
    this.tasks.push(task);
    this.isFull = true;
    return true;
  }
}
