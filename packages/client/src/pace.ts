import type { Answer } from './http-transport.js';
import type { RateLimit } from './rate-limit.js';
import { toDelayMs } from './retries.js';

/**
 * How fast the project's limit lets this client send. From a refusal on, until nothing is left to send, requests go one at a
 * time, each with no more entries than there is room for. Each waits for room for a second's entries, or for half of the burst
 * if that is less: a full bucket would lose what comes in. Times are in ms, as `performance.now()` has them.
 */
export class Pace {
  readonly #now: () => number;
  readonly #random: () => number;
  #limit: RateLimit | undefined;
  #limitAt = 0;
  #isLimited = false;
  #resumeAt = 0;
  #refusals = 0;
  #takenAt = Number.NEGATIVE_INFINITY;

  constructor({ now = () => performance.now(), random = Math.random } = {}) {
    this.#now = now;
    this.#random = random;
  }

  /** When the server last took something. */
  get takenAt(): number {
    return this.#takenAt;
  }

  /** Whether requests go one at a time. */
  get isLimited(): boolean {
    return this.#isLimited;
  }

  /** Entries that the next request may have. */
  maxEntries(most: number): number {
    if (!this.#limit) return most;
    const room = this.#isLimited ? this.#room(this.#limit) : this.#limit.burst;
    return Math.max(1, Math.min(most, Math.floor(room)));
  }

  /** How long the next request has to wait. */
  waitMs(): number {
    return Math.max(0, this.#resumeAt - this.#now());
  }

  onTaken({ rateLimit }: Pick<Answer, 'rateLimit'>): void {
    this.#takenAt = this.#now();
    this.#refusals = 0;
    this.#learn(rateLimit);
    if (!rateLimit) this.#isLimited = false;
    else if (this.#isLimited) this.#pause(this.#msUntilWorth(rateLimit));
  }

  /** Nothing is left to send. */
  onIdle(): void {
    this.#isLimited = false;
  }

  /** @returns how long the next request has to wait */
  onRefused({ rateLimit, retryAfter }: Pick<Answer, 'rateLimit' | 'retryAfter'>): number {
    this.#learn(rateLimit);
    this.#isLimited = true;
    // Retry-After is for as many as were sent; the next request has no more than there will be room for.
    const seconds = rateLimit ? Math.min(retryAfter ?? 0, this.#msUntilWorth(rateLimit) / 1_000) : retryAfter;
    this.#pause(toDelayMs(++this.#refusals, seconds, this.#random));
    return this.waitMs();
  }

  #learn(limit: RateLimit | undefined): void {
    this.#limit = limit;
    this.#limitAt = this.#now();
  }

  #pause(ms: number): void {
    this.#resumeAt = Math.max(this.#resumeAt, this.#now() + ms);
  }

  #room({ burst, perSecond, remaining }: RateLimit): number {
    return Math.min(burst, remaining + (perSecond * (this.#now() - this.#limitAt)) / 1_000);
  }

  #msUntilWorth({ burst, perSecond, remaining }: RateLimit): number {
    const worth = Math.max(1, Math.min(perSecond, burst / 2));
    return Math.max(0, ((worth - remaining) * 1_000) / perSecond);
  }
}
