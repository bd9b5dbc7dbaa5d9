import { setMaxListeners } from 'node:events';
import type { CallOptions, Signal } from './customer.js';
import { QueueFullError, TimeoutError } from './errors.js';

/** Longest delay of Node's timers. With a longer one, they fire at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** The promise that a user waits for. It settles once, independently of the request that carries it. */
export class Call<Result> {
  /** The user's promise. Internal code must not await it: that would hide a rejection that the user does not handle. */
  readonly promise: Promise<Result>;
  /** Resolves when the call is resolved or rejected. */
  readonly settled: Promise<void>;
  #isSettled = false;
  readonly #deadlineMs: number;
  #deadline: number;
  readonly #signal: Signal | undefined;
  readonly #onSettled: () => void;
  #resolve!: (result: Result) => void;
  #reject!: (error: unknown) => void;
  #done!: () => void;

  /** @param onSettled is called before the user's promise settles */
  constructor({ deadlineMs, signal, onSettled }: CallOptions & { deadlineMs: number; onSettled: () => void }) {
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.settled = new Promise((resolve) => {
      this.#done = resolve;
    });
    this.#deadlineMs = deadlineMs;
    this.#deadline = performance.now() + deadlineMs;
    this.#onSettled = onSettled;
    this.#signal = signal;
    if (signal) {
      allowManyListeners(signal);
      signal.addEventListener('abort', this.#onAbort);
    }
  }

  get isSettled(): boolean {
    return this.#isSettled;
  }

  resolve(result: Result): void {
    if (this.#settle()) this.#resolve(result);
  }

  reject(error: unknown): void {
    if (this.#settle()) this.#reject(error);
  }

  /** Restarts the deadline at `from`, in ms of `performance.now()`. Never moves it to an earlier time. */
  extend(from: number): void {
    this.#deadline = Math.max(this.#deadline, from + this.#deadlineMs);
  }

  /** Whether the call may wait `ms` more. If its deadline is before that, rejects it with `failure`. */
  mayWait(ms: number, failure: Error = new TimeoutError('not sent before the deadline')): boolean {
    if (performance.now() + ms > this.#deadline) this.reject(failure);
    return !this.#isSettled;
  }

  readonly #onAbort = () => this.reject(this.#signal?.reason);

  #settle(): boolean {
    if (this.#isSettled) return false;
    this.#isSettled = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#onSettled();
    this.#done();
    return true;
  }
}

/** Thousands of calls may share a signal; that is not a leak. Only Node's own signals would warn of one. */
function allowManyListeners(signal: Signal): void {
  try {
    setMaxListeners(0, signal as AbortSignal);
  } catch {
    // Another implementation of AbortSignal, such as that of jsdom.
  }
}

/** Returns a signal that aborts when all calls are settled. */
export function abortWhenSettled(calls: readonly Pick<Call<unknown>, 'settled'>[]): AbortSignal {
  const controller = new AbortController();
  void Promise.all(calls.map(({ settled }) => settled)).then(() => controller.abort());
  return controller.signal;
}

/** The calls that are not settled yet, at most `max`. */
export class OpenCalls {
  readonly #deadlineMs: number;
  readonly #max: number;
  readonly #calls = new Set<Pick<Call<unknown>, 'settled' | 'reject'>>();
  readonly #onNone: () => void;
  readonly #waiting: (() => void)[] = [];
  /**
   * Places for waiters that were resumed in this turn of the event loop. No other waiter gets such a place, but a call
   * that did not wait may take it.
   */
  #reserved = 0;
  #isTurnEnding = false;

  /** @param onNone is called when the last open call settles */
  constructor({ deadlineMs, max, onNone = () => {} }: { deadlineMs: number; max: number; onNone?: () => void }) {
    this.#deadlineMs = deadlineMs;
    this.#max = max;
    this.#onNone = onNone;
  }

  /**
   * Opens a call. Rejects with QueueFullError if `max` are open, with the signal's reason, or with what `start` throws.
   */
  open<Result>(signal: Signal | undefined, start: (call: Call<Result>) => void): Promise<Result> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#calls.size >= this.#max) return Promise.reject(new QueueFullError(`${this.#max} calls are already open`));
    const call = new Call<Result>({ deadlineMs: this.#deadlineMs, signal, onSettled: () => this.#onSettled(call) });
    this.#calls.add(call);
    if (this.#reserved > 0) this.#reserved--;
    try {
      start(call);
    } catch (error) {
      call.reject(error);
    }
    return call.promise;
  }

  /**
   * Resolves when there is room for one more call, for one waiter after the other. For a turn of the event loop, no
   * other waiter gets the place, but a call that did not wait may take it.
   */
  ready(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#resumeWaiters();
    });
  }

  /** Resolves when the calls that are open now are settled. */
  async settled(): Promise<void> {
    await Promise.all(Array.from(this.#calls, ({ settled }) => settled));
  }

  /** Resolves when no call is open and none follows in the same turn, as the request for the next page does. */
  async drained(): Promise<void> {
    while (this.#calls.size > 0) {
      await this.settled();
      await new Promise(setImmediate);
    }
  }

  rejectAll(error: Error): void {
    for (const call of this.#calls) call.reject(error);
  }

  #onSettled(call: Pick<Call<unknown>, 'settled' | 'reject'>): void {
    this.#calls.delete(call);
    if (this.#calls.size === 0) this.#onNone();
    this.#resumeWaiters();
  }

  /** Resumes as many waiters as there are places. A place that is not used in this turn goes to the next waiter. */
  #resumeWaiters(): void {
    const places = Math.max(0, this.#max - this.#calls.size - this.#reserved);
    const resumed = this.#waiting.splice(0, places);
    this.#reserved += resumed.length;
    for (const resolve of resumed) resolve();
    if (this.#reserved === 0 || this.#isTurnEnding) return;
    this.#isTurnEnding = true;
    setImmediate(() => {
      this.#isTurnEnding = false;
      this.#reserved = 0;
      this.#resumeWaiters();
    });
  }
}
