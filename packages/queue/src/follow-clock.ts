import { withTimeout } from '@opm/core';
import { type DeadlineLimits, ownNow, TOLERANCE_MS } from './clock-skew.js';
import type { QueueBackend } from './queue-backend.js';
import { type QueueAddress, toAddresses } from './shards.js';

const INTERVAL_MS = 10_000;
/** Per shard, whose master may be away. */
const TIMEOUT_MS = 2_000;

/**
 * BullMQ takes the deadlines of delayed jobs, and in PostgreSQL those of locks, from the clock of the process. So that all
 * processes have one clock, `Date.now()` of this one gives the store's from now on, if the two are more than a second apart.
 * Deadlines that are further away than they can be, because the store's clock was set back or a process did otherwise, are
 * brought nearer.
 * @returns how to end it
 */
export async function followClock(
  backend: Pick<QueueBackend, 'readClockSkews' | 'shortenDeadlines'>,
  { shards, limits, onError }: { shards: number; limits: DeadlineLimits; onError: (error: Error) => void },
): Promise<() => void> {
  let offset = 0;
  let timer: NodeJS.Timeout | undefined;
  let isOver = false;
  const followingNow = () => ownNow() + offset;

  async function look(): Promise<void> {
    const skew = toMedian(await backend.readClockSkews());
    if (isOver || skew === undefined) return;
    if (Math.abs(skew - offset) > TOLERANCE_MS) offset = Math.abs(skew) > TOLERANCE_MS ? Math.round(skew) : 0;
    if (offset !== 0) Date.now = followingNow;
    const shorten = (address: QueueAddress) => withTimeout(backend.shortenDeadlines(address, limits), TIMEOUT_MS);
    await Promise.all(toAddresses(shards).map(shorten));
  }

  async function lookAgain(): Promise<void> {
    await look().catch((error) => isOver || onError(error));
    if (!isOver) timer = setTimeout(lookAgain, INTERVAL_MS).unref();
  }

  await lookAgain();
  return () => {
    isOver = true;
    clearTimeout(timer);
    if (Date.now === followingNow) Date.now = ownNow;
  };
}

function toMedian(skews: number[]): number | undefined {
  return skews.toSorted((a, b) => a - b)[skews.length >> 1];
}
