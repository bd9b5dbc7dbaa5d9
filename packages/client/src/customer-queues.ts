/** An entry or an erasure of one customer. An erasure has no `entry`. */
export interface Task {
  customerId: string;
  /** The entry as JSON. */
  entry?: string;
  call: { readonly isSettled: boolean };
}

interface Limits {
  maxEntries: number;
  /** Maximum size of the request's JSON array, in UTF-8 bytes. */
  maxBytes: number;
}

interface TakeOptions<T extends Task> {
  isWanted?: (task: T) => boolean;
  /** Lowers the limit for this request. */
  maxEntries?: number;
}

/**
 * Waiting tasks, in one queue per customer. A customer is in one request at a time, so its requests cannot overtake
 * each other. Other customers' queues continue meanwhile, the longest-waiting one first.
 */
export class CustomerQueues<T extends Task> {
  readonly #limits: Limits;
  readonly #ready = new Map<string, T[]>();
  /** Customers with a request in flight, and their tasks that wait for its end. */
  readonly #busy = new Map<string, T[]>();

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  add(task: T): void {
    const queue = this.#busy.get(task.customerId) ?? this.#ready.get(task.customerId);
    if (queue) queue.push(task);
    else this.#ready.set(task.customerId, [task]);
  }

  /**
   * Takes the tasks of the next request: entries, or one erasure; none if none may be sent. Drops tasks that are not
   * wanted.
   */
  take({ isWanted = isOpen, maxEntries = this.#limits.maxEntries }: TakeOptions<T> = {}): T[] {
    const request = new RequestBuilder<T>({ ...this.#limits, maxEntries });
    for (const [customerId, queue] of this.#ready) {
      const before = request.tasks.length;
      let next = 0;
      for (const task of queue) {
        if (isWanted(task) && !request.add(task)) break;
        next++;
      }
      const remaining = queue.slice(next);
      if (request.tasks.length > before) this.#busy.set(customerId, remaining);
      if (request.tasks.length > before || remaining.length === 0) this.#ready.delete(customerId);
      if (request.isFull) break;
    }
    return request.tasks;
  }

  /** Ends a request: its customers may be sent again. Tasks in `again` go to the front of all queues, in order. */
  release(tasks: readonly T[], again: readonly T[] = []): void {
    for (const { customerId } of tasks) {
      const remaining = this.#busy.get(customerId);
      this.#busy.delete(customerId);
      if (remaining && remaining.length > 0) this.#ready.set(customerId, remaining);
    }
    if (again.length > 0) this.#putBack(again);
  }

  /** Whether a wanted task may be sent. Calls `isWanted` for every such task, because it may reject expired calls. */
  isWaiting(isWanted: (task: T) => boolean = isOpen): boolean {
    let isAny = false;
    for (const task of [...this.#ready.values()].flat()) isAny = isWanted(task) || isAny;
    return isAny;
  }

  #putBack(tasks: readonly T[]): void {
    const others = [...this.#ready];
    this.#ready.clear();
    for (const task of tasks) this.add(task);
    for (const [customerId, queue] of others) {
      this.#ready.set(customerId, [...(this.#ready.get(customerId) ?? []), ...queue]);
    }
  }
}

const isOpen = ({ call }: Task): boolean => !call.isSettled;

class RequestBuilder<T extends Task> {
  readonly tasks: T[] = [];
  isFull = false;
  readonly #limits: Limits;
  #bytes = '[]'.length;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  /** @returns false if the task does not fit and has to wait for another request */
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
