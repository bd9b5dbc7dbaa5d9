import { setMaxListeners } from 'node:events';
import { TimeoutError } from './errors.js';

export interface CallOptions {
  /** Ends the call with the signal's reason. An entry that is under way may be accepted nevertheless. */
  signal?: AbortSignal | undefined;
}

/** What a user waits for: settled once, whatever becomes of the request behind it. */
export class Call<Result> {
  /** What the user gets. Nobody else may wait for it, or a rejection that the user forgets would go unnoticed. */
  readonly promise: Promise<Result>;
  /** Resolves when the call is settled either way. */
  readonly settled: Promise<void>;
  #isSettled = false;
  readonly #deadlineMs: number;
  #deadline: number;
  readonly #signal: AbortSignal | undefined;
  readonly #onSettled: () => void;
  #resolve!: (result: Result) => void;
  #reject!: (error: unknown) => void;
  #done!: () => void;

  /** @param onSettled is called before the user learns of it */
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
      setMaxListeners(0, signal); // one signal for thousands of calls is no leak
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

  /** Lets the deadline count from then on, where that is later than what it counted from. */
  extend(from: number): void {
    this.#deadline = Math.max(this.#deadline, from + this.#deadlineMs);
  }

  /** Whether the call still wants an answer so many milliseconds from now; where its deadline is before that, it fails. */
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

/** Aborted once nobody waits for any of the calls. */
export function toSignal(calls: readonly Pick<Call<unknown>, 'settled'>[]): AbortSignal {
  const controller = new AbortController();
  void Promise.all(calls.map(({ settled }) => settled)).then(() => controller.abort());
  return controller.signal;
}
