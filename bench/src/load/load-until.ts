import type { Target } from '../contenders.js';
import { runLoad } from './run-load.js';

const MAX_SLICE_SECONDS = 10;
const MAX_SECONDS = 900;

/**
 * Entries of new customers, at least so many: load generators count in seconds, so they come in slices. Returns how many.
 * @throws Error when that takes more than a quarter of an hour
 */
export async function loadUntil(target: Target, requests: number): Promise<number> {
  let sent = 0;
  let seconds = 0;
  while (sent < requests) {
    if (seconds > MAX_SECONDS) throw new Error(`only ${sent} of ${requests} requests after ${seconds} s`);
    const left = sent > 0 ? Math.ceil(((requests - sent) / sent) * seconds) : 1;
    const slice = await runLoad({ target, seconds: Math.min(left, MAX_SLICE_SECONDS), customers: 'new' });
    sent += slice.requests;
    seconds += slice.seconds;
  }
  return sent;
}
