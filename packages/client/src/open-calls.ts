import { Call } from './call.js';
import { QueueFullError } from './errors.js';

/** The calls that are not settled. */
export class OpenCalls {
  readonly #deadlineMs: number;
  readonly #max: number;
  readonly #calls = new Set<Pick<Call<unknown>, 'settled' | 'reject'>>();
  readonly #onNone: () => void;
  readonly #waiting: (() => void)[] = [];

  /** @param onNone is called when the last one is settled */
  constructor({ deadlineMs, max, onNone = () => {} }: { deadlineMs: number; max: number; onNone?: () => void }) {
    this.#deadlineMs = deadlineMs;
    this.#max = max;
    this.#onNone = onNone;
  }

  /** Rejects with QueueFullError, without a start, where there are too many; with what `start` throws; with the signal's reason. */
  open<Result>(signal: AbortSignal | undefined, start: (call: Call<Result>) => void): Promise<Result> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#calls.size >= this.#max) return Promise.reject(new QueueFullError(`${this.#max} calls are open already`));
    const call = new Call<Result>({ deadlineMs: this.#deadlineMs, signal, onSettled: () => this.#onSettled(call) });
    this.#calls.add(call);
    try {
      start(call);
    } catch (error) {
      call.reject(error);
    }
    return call.promise;
  }

  /** Resolves when there is room for one more. */
  ready(): Promise<void> {
    if (this.#calls.size < this.#max) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  /** Resolves when those that are open now are settled. */
  async settled(): Promise<void> {
    await Promise.all(Array.from(this.#calls, ({ settled }) => settled));
  }

  rejectAll(error: Error): void {
    for (const call of this.#calls) call.reject(error);
  }

  #onSettled(call: Pick<Call<unknown>, 'settled' | 'reject'>): void {
    this.#calls.delete(call);
    if (this.#calls.size === 0) this.#onNone();
    // Not everybody who was told of room takes it, so nobody may wait on while all of it is free.
    const room = this.#calls.size === 0 ? this.#waiting.length : this.#max - this.#calls.size;
    for (const resolve of this.#waiting.splice(0, room)) resolve();
  }
}
