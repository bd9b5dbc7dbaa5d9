import { setTimeout as delay } from 'node:timers/promises';

export type Limit = { maxMs?: number; giveUp?: AbortSignal };

const LONGEST_MS = 2 ** 31 - 1;

/** What the promise comes to. @throws Error where the time is over first, or the signal comes */
export async function bounded<T>(promise: Promise<T>, { maxMs = LONGEST_MS, giveUp }: Limit): Promise<T> {
  const done = new AbortController();
  const signal = giveUp ? AbortSignal.any([giveUp, done.signal]) : done.signal;
  const end = async (): Promise<never> => {
    await delay(maxMs, undefined, { signal }).catch(() => {
      throw new Error('given up');
    });
    throw new Error(`not done within ${maxMs / 1_000} s`);
  };
  return Promise.race([promise, end()]).finally(() => done.abort());
}
