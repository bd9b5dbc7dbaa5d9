import type { RateLimit } from '@opm/core';
import type { ReserveCall, Reserved } from '@opm/queue';

/**
 * A reserved token expires this long after the call, which bounds how far a project can exceed its limit for a moment.
 */
const RESERVATION_MS = 100;
/** Share of the burst that may be reserved in advance, if it is more than what the rate adds in `RESERVATION_MS`. */
const AHEAD_PER_BURST = 1 / 16;
/** The longest pause before the next call to a bucket that granted fewer tokens than requested. */
const MAX_PAUSE_MS = 25;
/** The longest that a project is blocked because its refused requests used more tokens than its bucket had. */
const MAX_BLOCK_MS = 10_000;

/**
 * The tokens that this process has reserved from a project's shared bucket, and its estimate of the bucket. It reserves
 * tokens in advance, as many as were used recently, so that few entries of a busy project wait. It does not ask a
 * bucket that must still be empty. All times are in ms, as `performance.now()`.
 */
export class TokenReservation {
  readonly projectId: number;
  readonly limit: RateLimit;
  /** The value of the `RateLimit-Policy` header. */
  readonly policy: string;
  /** Unused tokens, expired ones included: they can no longer be used, but the next call returns them. */
  #held = 0;
  #heldUntil = 0;
  /** Tokens that the bucket had left after the last call, and the time of that answer. */
  #left: number;
  #leftAt = 0;
  #mayAskAt = 0;
  #blockedUntil = 0;
  #used = 0;
  #wanted = 0;
  /** Whether a call is in flight. Its answer may bring tokens. */
  #isAsking = false;
  #askedAt = Number.NEGATIVE_INFINITY;

  constructor(projectId: number, limit: RateLimit) {
    this.projectId = projectId;
    this.limit = limit;
    const seconds = Math.max(1, Math.ceil(limit.burst / limit.rate)); // an integer; `opm-rate` is exact
    this.policy = `"burst";q=${limit.burst};w=${seconds};opm-rate=${limit.rate}`;
    this.#left = limit.burst;
  }

  /**
   * Whether to call the bucket, or to wait for the call in flight, because fewer than `entries` tokens are reserved.
   * False if the bucket must still be empty.
   */
  isShort(entries: number, now: number): boolean {
    if (this.isBlocked(now) || now < this.#mayAskAt) return false;
    return this.#usable(now) < entries && (this.#isAsking || this.#held + this.#bucket(now) >= 1);
  }

  /** Uses up to `entries` reserved tokens. @returns how many it used */
  use(entries: number, now: number): number {
    const used = Math.min(entries, this.#usable(now));
    this.#held -= used;
    this.#used += used;
    return used;
  }

  /** Creates the call for `entries` tokens and some in advance. The call returns all unused tokens to the bucket. */
  toCall(entries: number, now: number): ReserveCall {
    const { rate, burst } = this.limit;
    const most = Math.max((rate * RESERVATION_MS) / 1_000, burst * AHEAD_PER_BURST);
    // The tokens that will be used at the current pace, but at most twice as many as since the last call.
    const ahead = Math.min(most, this.#used * Math.min(2, RESERVATION_MS / (now - this.#askedAt)));
    this.#wanted = entries + Math.floor(ahead);
    const call = { wanted: this.#wanted, returned: this.#held };
    this.#held = 0;
    this.#used = 0;
    this.#isAsking = true;
    this.#askedAt = now;
    return call;
  }

  /** The call has been answered, or has failed. */
  endCall(): void {
    this.#isAsking = false;
  }

  /** Stores the answer of the bucket. Requests that waited may use the tokens at `now`, even if the answer was slow. */
  onReserved({ granted, available }: Pick<Reserved, 'granted' | 'available'>, now: number): void {
    const { rate, burst } = this.limit;
    this.#held = granted;
    this.#heldUntil = Math.max(this.#askedAt + RESERVATION_MS, now);
    this.#left = available;
    this.#leftAt = now;
    // Half the time in which an empty bucket fills, so that it cannot overflow unused.
    if (granted < this.#wanted) this.#mayAskAt = now + Math.min(MAX_PAUSE_MS, (500 * burst) / rate);
  }

  /** Blocks the project for the time in which the rate adds this many tokens. Repeated calls add up. */
  block(tokens: number, now: number): void {
    const until = Math.max(this.#blockedUntil, now) + (tokens / this.limit.rate) * 1_000;
    this.#blockedUntil = Math.min(until, now + MAX_BLOCK_MS);
  }

  isBlocked(now: number): boolean {
    return now < this.#blockedUntil;
  }

  /** How many entries may come now, by the estimate of this process. */
  remaining(now: number): number {
    const more = now < this.#mayAskAt || this.isBlocked(now) ? 0 : this.#bucket(now);
    return Math.floor(Math.min(this.limit.burst, this.#usable(now) + more));
  }

  /** Whole seconds, at least 1, until the bucket has `entries` tokens or is full, if no other process takes any. */
  secondsUntil(entries: number, now: number): number {
    const { rate, burst } = this.limit;
    const seconds = (Math.min(entries, burst) - this.#bucket(now)) / rate;
    return Math.max(1, Math.ceil(seconds), Math.ceil((this.#blockedUntil - now) / 1_000));
  }

  #usable(now: number): number {
    return now <= this.#heldUntil && !this.isBlocked(now) ? this.#held : 0;
  }

  /** Upper bound of the tokens in the bucket; exact if no other process has taken any since the last call. */
  #bucket(now: number): number {
    return Math.min(this.limit.burst, this.#left + (this.limit.rate * (now - this.#leftAt)) / 1_000);
  }
}

/** Tokens that refused content costs: one per KiB or part of one. Otherwise invalid requests would be free. */
export const toTokens = (bytes: number): number => Math.max(1, Math.ceil(bytes / KIB));

const KIB = 1024;
