import { once } from 'node:events';
import { withTimeout } from '@opm/core';

/**
 * Wraps a function in a timeout and a single flight. A call that takes longer than `timeoutMs` rejects, but the run
 * behind it continues. Calls during a run share that run, whatever their arguments.
 * @returns the wrapped function
 */
export function singleFlight<Args extends unknown[], T>(
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

/** Waits for the promise until the signal is aborted. @throws the error of the promise, or the signal's reason */
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
