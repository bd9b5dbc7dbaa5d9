import { setTimeout as delay } from 'node:timers/promises';
import { type Answer, ConnectionError, type OpmError, toError } from './errors.js';
import type { Request, Transport } from './http-transport.js';

const RATE_LIMITED = 429;

const RETRYABLE = new Set([408, RATE_LIMITED, 500, 502, 503, 504]);
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;

interface RetryOptions {
  /** Whether the callers still want another attempt in `ms` milliseconds. */
  mayWait: (ms: number, failure: OpmError) => boolean;
  signal: AbortSignal;
}

/**
 * Sends the request until the answer is not retryable. Every attempt has the same bytes.
 * @param isFinal returns true for a retryable answer that the caller handles itself
 * @throws OpmError the last failure if `mayWait` refuses another attempt; the signal's reason
 */
export async function requestWithRetries(
  transport: Transport,
  request: Request,
  { mayWait, signal, isFinal = () => false }: RetryOptions & { isFinal?: (answer: Answer) => boolean },
): Promise<Answer> {
  for (let tries = 1; ; tries++) {
    const outcome = await tryOnce(transport, request, signal);
    if (outcome instanceof ConnectionError) await waitForRetry(tries, outcome, { mayWait, signal });
    else if (!isRetryable(outcome.statusCode) || isFinal(outcome)) return outcome;
    else await waitForRetry(tries, toError(outcome), { mayWait, signal });
  }
}

/** Waits before another attempt. @throws OpmError `failure` if `mayWait` refuses the delay; the signal's reason */
export async function waitForRetry(tries: number, failure: OpmError, { mayWait, signal }: RetryOptions): Promise<void> {
  const ms = toDelayMs(tries, failure.retryAfter);
  if (!mayWait(ms, failure)) throw failure;
  await delay(ms, undefined, { signal });
}

export function isRateLimited({ statusCode }: Pick<Answer, 'statusCode'>): boolean {
  return statusCode === RATE_LIMITED;
}

export function isRetryable(statusCode: number): boolean {
  return RETRYABLE.has(statusCode);
}

/** `Retry-After` plus exponential backoff with full jitter, in ms. */
export function toDelayMs(tries: number, retryAfter: number | undefined, random = Math.random): number {
  const ceiling = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (tries - 1));
  return (retryAfter ?? 0) * 1_000 + random() * ceiling;
}

async function tryOnce(transport: Transport, request: Request, signal: AbortSignal): Promise<Answer | ConnectionError> {
  try {
    return await transport.request(request, signal);
  } catch (error) {
    if (error instanceof ConnectionError) return error;
    throw error;
  }
}
