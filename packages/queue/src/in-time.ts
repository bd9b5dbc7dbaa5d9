import { once } from 'node:events';
import { withTimeout } from '@opm/core';

/**
 * Bounds how long one waits, and how often it is under way: what takes longer goes on by itself, and is not begun again before
 * it is done. Who calls meanwhile waits for that one, whatever the arguments are.
 * @returns what it returns, or rejects after that many milliseconds
 */
export function inTime<Args extends unknown[], T>(
  run: (...args: Args) => Promise<T>,
  timeoutMs: number,
): (...args: Args) => Promise<T> {
  let running: Promise<T> | undefined;
  return (...args) => {
    running ??= run(...args).finally(() => {
      running = undefined;
    });
    return withTimeout(running, timeoutMs);
  };
}

/** What it resolves with; once the signal is aborted it is not waited for. @throws the signal's reason, too */
export async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const settled = new AbortController();
  const aborted = once(signal, 'abort', { signal: settled.signal }).then(() => Promise.reject(signal.reason));
  try {
    signal.throwIfAborted();
    return await Promise.race([promise, aborted]);
  } finally {
    settled.abort();
    aborted.catch(() => {});
    promise.catch(() => {});
  }
}

/** Resolves when all have; where some reject, it does so with the first's reason, when all of them are over. */
export async function allDone<T>(promises: Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(promises);
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}
