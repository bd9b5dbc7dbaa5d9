import { once } from 'node:events';

/**
 * The longest time after which an ingress answers. An ingress enqueues an entry within this time after admission, or
 * never. So a claim that is older and has no job was left by a killed ingress.
 */
export const MAX_ANSWER_TIMEOUT_MS = 30_000;

/** Rejects if the promise takes longer than `ms`. It does not cancel the work behind the promise. */
export async function withTimeout<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Like `Promise.all`, but waits until all promises are settled before it rejects with the first error. */
export async function awaitAll<T>(promises: Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(promises);
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}

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
