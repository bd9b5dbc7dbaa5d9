import { setTimeout as delay } from 'node:timers/promises';

export interface WaitOptions {
  /** Completes the sentence "Waited … for". */
  description: string;
  timeoutMs?: number;
}

type Truthy<T> = Exclude<T, undefined | null | false | 0 | ''>;

/** So long that only what never happens takes longer, on a machine however slow. */
export const PATIENCE_MS = 300_000;

/** It is looked again after a tenth of what has been waited: what takes long is not hurried by many looks, which cost others. */
const MIN_POLL_MS = 15;
const MAX_POLL_MS = 250;

/**
 * Polls until the condition holds and returns its value. A condition that throws does not hold yet; the last error
 * becomes the cause when time is up.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { description, timeoutMs = PATIENCE_MS }: WaitOptions,
): Promise<Truthy<T>> {
  const since = performance.now();
  for (;;) {
    let cause: unknown;
    try {
      const value = await condition();
      if (value) return value as Truthy<T>;
    } catch (error) {
      cause = error;
    }
    const waitedMs = performance.now() - since;
    if (waitedMs >= timeoutMs) throw new Error(`Waited ${timeoutMs} ms in vain for ${description}`, { cause });
    await delay(Math.min(Math.max(MIN_POLL_MS, waitedMs / 10), MAX_POLL_MS));
  }
}
