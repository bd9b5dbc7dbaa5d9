import { withTimeout } from '@opm/core';
import { type DeadlineLimits, type QueueAddress, type QueueBackend, toAddresses } from './queue-store.js';

const INTERVAL_MS = 10_000;
/** Timeout per shard, because its Redis master may be down. */
const TIMEOUT_MS = 2_000;

/**
 * Gives all processes one clock. BullMQ computes the deadlines of delayed jobs, and on PostgreSQL those of job locks,
 * from the clock of the process. If that clock differs from the store's by more than a second, `Date.now()` of this
 * process returns the store's time from now on.
 *
 * Also shortens deadlines that are later than their limit, because the store's clock was set back or another process
 * did not follow it.
 * @returns a function that stops it and restores `Date.now()`
 */
export async function followClock(
  backend: Pick<QueueBackend, 'readClockSkews' | 'shortenDeadlines'>,
  { shards, limits, onError }: { shards: number; limits: DeadlineLimits; onError: (error: Error) => void },
): Promise<() => void> {
  let offset = 0;
  let timer: NodeJS.Timeout | undefined;
  let isOver = false;
  const followingNow = () => ownNow() + offset;

  async function follow(): Promise<void> {
    const skew = toMedian(await backend.readClockSkews());
    if (isOver || skew === undefined) return;
    if (Math.abs(skew - offset) > TOLERANCE_MS) offset = Math.abs(skew) > TOLERANCE_MS ? Math.round(skew) : 0;
    if (offset !== 0) Date.now = followingNow;
  }

  /** Uses only the store's own clock, so it also works while the skew cannot be measured. */
  const shorten = (address: QueueAddress) => withTimeout(backend.shortenDeadlines(address, limits), TIMEOUT_MS);

  async function pollAgain(): Promise<void> {
    const polls = [follow(), ...toAddresses(shards).map(shorten)];
    await Promise.all(polls.map((poll) => poll.catch((error) => isOver || onError(error))));
    if (!isOver) timer = setTimeout(pollAgain, INTERVAL_MS).unref();
  }

  await pollAgain();
  return () => {
    isOver = true;
    clearTimeout(timer);
    if (Date.now === followingNow) Date.now = ownNow;
  };
}

function toMedian(skews: number[]): number | undefined {
  return skews.toSorted((a, b) => a - b)[skews.length >> 1];
}

/** This process's own clock, even after `followClock` has replaced `Date.now`. */
const ownNow = Date.now;

/** Smaller differences between two clocks do not matter, and a busy process cannot measure them. */
export const TOLERANCE_MS = 1_000;
const NOTABLE_MS = 60_000;

/** The largest of the skews, in ms; positive if the server's clock is ahead. @throws TypeError if the list is empty */
export function toLargestSkew(skews: number[]): number {
  return skews.reduce((largest, skew) => (Math.abs(skew) > Math.abs(largest) ? skew : largest));
}

/** A warning for `/readyz` if the clocks differ by more than a minute. */
export function toClockWarning(skews: number[]): string | undefined {
  const largest = skews.length === 0 ? 0 : toLargestSkew(skews);
  if (Math.abs(largest) <= NOTABLE_MS) return undefined;
  const seconds = Math.round(Math.abs(largest) / 1_000);
  return `the queue store's clock is ${seconds} s ${largest > 0 ? 'ahead of' : 'behind'} this process's clock`;
}

/**
 * Measures how far a server's clock is ahead of this process's, in ms, with an error of half the time that it took.
 * @throws Error if it took more than a second and the clocks may be equal
 */
export async function measureSkew(readTime: () => Promise<number>): Promise<number> {
  const before = performance.now();
  const time = await readTime();
  const tookMs = performance.now() - before;
  const skew = time + tookMs / 2 - ownNow();
  if (tookMs > TOLERANCE_MS && Math.abs(skew) <= tookMs)
    throw new Error(`cannot measure the clock: the server answered after ${Math.round(tookMs)} ms`);
  return skew;
}
