import type { Target } from '../contenders.js';
import { runLoad } from './run-load.js';

const MAX_SLICE_SECONDS = 10;

/** New customers, until there have been at least so many. Load generators count in seconds, so the last slice is short. @returns how many */
export async function loadUntil(target: Target, requests: number): Promise<number> {
  let sent = 0;
  let rate = 0;
  while (sent < requests) {
    const left = rate > 0 ? Math.ceil((requests - sent) / rate) : 1;
    const result = await runLoad({ target, seconds: Math.min(left, MAX_SLICE_SECONDS), customers: 'new' });
    sent += result.requests;
    rate = result.requests / result.seconds;
  }
  return sent;
}
