import { setTimeout as delay } from 'node:timers/promises';

export interface WaitOptions {
  /** Completes the sentence "Waited … for". */
  description: string;
  timeoutMs?: number;
}

type Truthy<T> = Exclude<T, undefined | null | false | 0 | ''>;

const POLL_INTERVAL_MS = 15;

/**
 * Polls until the condition holds and returns its value. A condition that throws does not hold yet; the last error
 * becomes the cause when time is up.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { description, timeoutMs = 60_000 }: WaitOptions,
): Promise<Truthy<T>> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    let cause: unknown;
    try {
      const value = await condition();
      if (value) return value as Truthy<T>;
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= deadline) throw new Error(`Waited ${timeoutMs} ms in vain for ${description}`, { cause });
    await delay(POLL_INTERVAL_MS);
  }
}
