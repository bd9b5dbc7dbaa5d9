const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 10_000;

/**
 * A circuit breaker for PostgreSQL: after a call has failed, the next ones are not made for a moment that doubles with
 * every failure. So one partner waits for a time-out, not all of them.
 */
export class OutagePause {
  readonly #onFailure: (error: unknown) => void;
  readonly #now: () => number;
  #failures = 0;
  #until = 0;

  constructor({
    onFailure,
    now = () => performance.now(),
  }: { onFailure: (error: unknown) => void; now?: () => number }) {
    this.#onFailure = onFailure;
    this.#now = now;
  }

  get isActive(): boolean {
    return this.#now() < this.#until;
  }

  /** Makes the call. @throws what the call throws */
  async run<T>(call: () => Promise<T>): Promise<T> {
    try {
      const result = await call();
      this.#failures = 0;
      this.#until = 0;
      return result;
    } catch (error) {
      // Calls that were under way together fail together: that is one failure.
      if (!this.isActive) {
        this.#until = this.#now() + Math.min(FIRST_PAUSE_MS * 2 ** this.#failures++, MAX_PAUSE_MS);
        this.#onFailure(error);
      }
      throw error;
    }
  }
}
