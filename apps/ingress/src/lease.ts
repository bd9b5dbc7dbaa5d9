import type { RateLimit } from '@opm/core';
import type { LeaseCall, Leased } from '@opm/queue';

/** No token is used later than this after it was asked for: as much more than the limit may be let through in a while. */
const LEASE_MS = 100;
/** How much of the burst may be leased ahead, where that is more than what the rate brings in the time of a lease. */
const AHEAD_PER_BURST = 1 / 16;
/** A bucket that had less than was wanted is empty, and is not asked again at once. */
const MAX_PAUSE_MS = 25;
/** What is refused may take more tokens than there are; so long at most nothing is let through for that. */
const MAX_BAR_MS = 10_000;

/**
 * The tokens of a project that this process has leased from the bucket that all share, and what it knows of the rest. A
 * busy project's tokens are leased ahead, as many as were used lately, so that few entries wait for them; a bucket that
 * is known to be empty is not asked while it must be so still. Times are in ms, as `performance.now()` has them.
 */
export class Lease {
  readonly projectId: number;
  readonly limit: RateLimit;
  /** `RateLimit-Policy`, which stays the same. */
  readonly policy: string;
  /** Those whose time is over count for what is returned, and for nothing else. */
  #held = 0;
  #heldUntil = 0;
  /** Tokens that the bucket had when it was asked last, and when that was answered. */
  #left: number;
  #leftAt = 0;
  #mayAskAt = 0;
  #barredUntil = 0;
  #used = 0;
  #wanted = 0;
  #askedAt = Number.NEGATIVE_INFINITY;

  constructor(projectId: number, limit: RateLimit) {
    this.projectId = projectId;
    this.limit = limit;
    const seconds = Math.max(1, Math.ceil(limit.burst / limit.rate)); // `w` is a whole number, hence the parameter of our own
    this.policy = `"burst";q=${limit.burst};w=${seconds};opm-rate=${limit.rate}`;
    this.#left = limit.burst;
  }

  /** Whether to ask the bucket before so many are used: there are too few here, and there may be some. */
  isShort(entries: number, now: number): boolean {
    if (this.isBarred(now) || now < this.#mayAskAt) return false;
    return this.#usable(now) < entries && this.#held + this.#bucket(now) >= 1;
  }

  /** @returns for how many entries there are tokens, which are used by that */
  use(entries: number, now: number): number {
    const used = Math.min(entries, this.#usable(now));
    this.#held -= used;
    this.#used += used;
    return used;
  }

  /** What to ask the bucket for. From here on it has what was held. */
  toCall(entries: number, now: number): LeaseCall {
    const { rate, burst } = this.limit;
    const most = Math.max((rate * LEASE_MS) / 1_000, burst * AHEAD_PER_BURST);
    // As many as will be used at this pace; of a sudden one, twice as many as before.
    const ahead = Math.min(most, this.#used * Math.min(2, LEASE_MS / (now - this.#askedAt)));
    this.#wanted = entries + Math.floor(ahead);
    const call = { wanted: this.#wanted, returned: this.#held };
    this.#held = 0;
    this.#used = 0;
    this.#askedAt = now;
    return call;
  }

  /** Those who had to wait for the answer may use it even where it was slow, at this very time. */
  onLeased({ granted, available }: Pick<Leased, 'granted' | 'available'>, now: number): void {
    const { rate, burst } = this.limit;
    this.#held = granted;
    this.#heldUntil = Math.max(this.#askedAt + LEASE_MS, now);
    this.#left = available;
    this.#leftAt = now;
    // Not so long that the bucket could overflow meanwhile.
    if (granted < this.#wanted) this.#mayAskAt = now + Math.min(MAX_PAUSE_MS, (500 * burst) / rate);
  }

  /** Lets nothing through for as long as the rate takes to bring so many tokens, those of earlier calls too. */
  bar(tokens: number, now: number): void {
    const until = Math.max(this.#barredUntil, now) + (tokens / this.limit.rate) * 1_000;
    this.#barredUntil = Math.min(until, now + MAX_BAR_MS);
  }

  isBarred(now: number): boolean {
    return now < this.#barredUntil;
  }

  /** Entries that may come now, as far as is known here. */
  remaining(now: number): number {
    const more = now < this.#mayAskAt || this.isBarred(now) ? 0 : this.#bucket(now);
    return Math.floor(Math.min(this.limit.burst, this.#usable(now) + more));
  }

  /** Whole seconds, 1 at least, until the bucket has so many, or as many as it ever can, where nobody takes any meanwhile. */
  secondsUntil(entries: number, now: number): number {
    const { rate, burst } = this.limit;
    const seconds = (Math.min(entries, burst) - this.#bucket(now)) / rate;
    return Math.max(1, Math.ceil(seconds), Math.ceil((this.#barredUntil - now) / 1_000));
  }

  #usable(now: number): number {
    return now <= this.#heldUntil && !this.isBarred(now) ? this.#held : 0;
  }

  /** What the bucket has at most, and has where nobody else has taken any since it was asked. */
  #bucket(now: number): number {
    return Math.min(this.limit.burst, this.#left + (this.limit.rate * (now - this.#leftAt)) / 1_000);
  }
}
