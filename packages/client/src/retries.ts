import { setTimeout as delay } from 'node:timers/promises';
import { ConnectionError, type OpmError, toError } from './errors.js';
import type { Answer, Request, Transport } from './http-transport.js';

const RATE_LIMITED = 429;

const RETRYABLE = new Set([408, 409, RATE_LIMITED, 500, 502, 503, 504]);
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;

interface RetryOptions {
  /** Whether another try so many milliseconds from now is still wanted. */
  mayWait: (ms: number, failure: OpmError) => boolean;
  signal: AbortSignal;
}

/**
 * Sends the request until its answer is not worth another try. Each try is the same in every byte.
 * @param isFinal what is not worth another try, though it may pass
 * @throws OpmError the last failure where it is not; the signal's reason
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

/** @throws OpmError the failure, where it may not wait for so long; the signal's reason */
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

/** Exponential with full jitter, on top of what the server asks for. */
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
