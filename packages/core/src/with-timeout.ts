/**
 * The longest time after which an ingress answers. It enqueues an entry sooner than this after admission, or never, so an
 * older claim without a job is one of a killed ingress.
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
