const FIRST_OPEN_MS = 1_000;
const MAX_OPEN_MS = 10_000;

/**
 * A circuit breaker for PostgreSQL. After a failed call it stays open for 1 s, and twice as long after each further
 * failure, up to 10 s. Callers check `isOpen` and make no calls while it is open, so only one partner waits for a
 * timeout.
 */
export class CircuitBreaker {
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

  get isOpen(): boolean {
    return this.#now() < this.#until;
  }

  /** Makes the call, also while the breaker is open, and records its outcome. @throws what the call throws */
  async run<T>(call: () => Promise<T>): Promise<T> {
    try {
      const result = await call();
      this.#failures = 0;
      this.#until = 0;
      return result;
    } catch (error) {
      // Concurrent calls fail together and count as one failure.
      if (!this.isOpen) {
        this.#until = this.#now() + Math.min(FIRST_OPEN_MS * 2 ** this.#failures++, MAX_OPEN_MS);
        this.#onFailure(error);
      }
      throw error;
    }
  }
}
