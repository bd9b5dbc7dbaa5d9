import type { Answer, RateLimit } from './errors.js';

const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;

/**
 * Paces requests to the project's limit, a token bucket. After a 429 and until nothing is left to send, requests go one
 * at a time, with at most as many entries as there are tokens. Each request waits for a second's worth of tokens, or
 * for half of the burst if that is less, because a full bucket discards tokens. Times are in ms of `performance.now()`.
 */
export class Pace {
  readonly #now: () => number;
  readonly #random: () => number;
  #limit: RateLimit | undefined;
  #limitAt = 0;
  #isLimited = false;
  #resumeAt = 0;
  #rateLimitedInARow = 0;
  #lastAcceptedAt = Number.NEGATIVE_INFINITY;

  constructor({ now = () => performance.now(), random = Math.random } = {}) {
    this.#now = now;
    this.#random = random;
  }

  /** When the server last accepted something; -Infinity before that. */
  get lastAcceptedAt(): number {
    return this.#lastAcceptedAt;
  }

  /** Whether a 429 restricts the client to one request at a time. */
  get isLimited(): boolean {
    return this.#isLimited;
  }

  /** Maximum number of entries in the next request. */
  maxEntries(most: number): number {
    if (!this.#limit) return most;
    const tokens = this.#isLimited ? this.#availableTokens(this.#limit) : this.#limit.burst;
    return Math.max(1, Math.min(most, Math.floor(tokens)));
  }

  /** Time that the next request has to wait, in ms. */
  waitMs(): number {
    return Math.max(0, this.#resumeAt - this.#now());
  }

  onAccepted({ rateLimit }: Pick<Answer, 'rateLimit'>): void {
    this.#lastAcceptedAt = this.#now();
    this.#rateLimitedInARow = 0;
    this.#learn(rateLimit);
    if (!rateLimit) this.#isLimited = false;
    else if (this.#isLimited) this.#pause(this.#msUntilEnoughTokens(rateLimit));
  }

  /** Called when nothing is left to send: lifts the restriction to one request at a time. */
  onIdle(): void {
    this.#isLimited = false;
  }

  /** Called for a 429 to at most `entries` entries. @returns the time that the next request has to wait, in ms */
  onRateLimited({ rateLimit, retryAfter = 0 }: Pick<Answer, 'rateLimit' | 'retryAfter'>, entries: number): number {
    this.#learn(rateLimit);
    this.#isLimited = true;
    // The server computes Retry-After for all entries of this request. The next request is smaller, so it may wait
    // less. But if an empty bucket would have tokens for all of them earlier than that, the server blocks the project
    // for this time. Retry-After is rounded up to whole seconds.
    const isBlocked = rateLimit && (retryAfter - 1) * rateLimit.perSecond > entries;
    const seconds =
      !rateLimit || isBlocked ? retryAfter : Math.min(retryAfter, this.#msUntilEnoughTokens(rateLimit) / 1_000);
    this.#pause(toDelayMs(++this.#rateLimitedInARow, seconds, this.#random));
    return this.waitMs();
  }

  #learn(limit: RateLimit | undefined): void {
    this.#limit = limit;
    this.#limitAt = this.#now();
  }

  #pause(ms: number): void {
    this.#resumeAt = Math.max(this.#resumeAt, this.#now() + ms);
  }

  #availableTokens({ burst, perSecond, remaining }: RateLimit): number {
    return Math.min(burst, remaining + (perSecond * (this.#now() - this.#limitAt)) / 1_000);
  }

  #msUntilEnoughTokens({ burst, perSecond, remaining }: RateLimit): number {
    const enough = Math.max(1, Math.min(perSecond, burst / 2));
    return Math.max(0, ((enough - remaining) * 1_000) / perSecond);
  }
}

/** `Retry-After` plus exponential backoff with full jitter, in ms. */
export function toDelayMs(tries: number, retryAfter: number | undefined, random = Math.random): number {
  const ceiling = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (tries - 1));
  return (retryAfter ?? 0) * 1_000 + random() * ceiling;
}
