import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { abortWhenSettled, type Call, type OpenCalls } from './call.js';
import { type CallOptions, type SendResult, withReceipt } from './customer.js';
import { type Answer, ConnectionError, type OpmError, toError } from './errors.js';
import type { Request, Transport } from './http-transport.js';
import { toDelayMs } from './pace.js';

const RATE_LIMITED = 429;

const RETRYABLE = new Set([408, RATE_LIMITED, 500, 502, 503, 504]);

export interface EntryTask {
  customerId: string;
  entry: string;
  call: Call<SendResult>;
}

/**
 * Result of a request. `limited` are the tasks that got 429: the server did nothing with them, and their calls are
 * open.
 */
export type RequestResult<T> = { answer: Answer } & (
  | { limited: readonly T[]; refusal: OpmError }
  | { limited?: undefined }
);

/**
 * Sends the entries in one request, and retries those that the server could not accept, until each call is settled or
 * gets a 429. If it throws, the caller settles the calls that are still open.
 * @param onLimited as in `requestWithRetries`
 * @throws OpmError
 */
export async function sendEntries(
  transport: Transport,
  tasks: readonly EntryTask[],
  onLimited: OnLimited,
): Promise<RequestResult<EntryTask>> {
  let open = tasks;
  for (let tries = 1; ; tries++) {
    const signal = abortWhenSettled(open.map(({ call }) => call));
    const options = { mayWait: mayWaitAny(open), signal, onLimited };
    const answer = await requestWithRetries(transport, toRequest(open), options);
    if (isRateLimited(answer)) return { limited: open, refusal: toError(answer), answer };
    const results = readResults(answer, open.length);
    const left = settle(open, results, answer);
    const limit = results.find((result) => isRateLimited({ statusCode: statusOf(result) }));
    if (limit) return { limited: left, refusal: toError(answer, limit), answer };
    if (left.length === 0) return { answer };
    const refusal = toError(answer, results.find(isTransient));
    await waitForRetry(toDelayMs(tries, refusal.retryAfter), refusal, { mayWait: mayWaitAny(left), signal });
    open = left.filter(isOpen);
    if (open.length === 0) return { answer };
  }
}

/** All attempts of a request share an idempotency key. A request with other entries needs a new key. */
function toRequest(tasks: readonly EntryTask[]) {
  const body = `[${tasks.map(({ entry }) => entry).join()}]`;
  return { method: 'POST', path: '/entries', body, idempotencyKey: randomUUID() } as const;
}

/**
 * Whether any call may wait. Rejects the calls that may not, but their entries stay in the request, because its
 * idempotency key stands for exactly these entries.
 */
const mayWaitAny =
  (tasks: readonly EntryTask[]) =>
  (ms: number, failure: OpmError): boolean =>
    tasks.filter(({ call }) => call.mayWait(ms, failure)).length > 0;

/** Settles calls by their results. @returns the tasks to send again, in order */
function settle(tasks: readonly EntryTask[], results: unknown[], answer: Answer): EntryTask[] {
  const receipts = readReceipts(answer, tasks.length);
  return tasks.filter(({ call }, i) => {
    const statusCode = statusOf(results[i]);
    const isAccepted = statusCode === 201 || statusCode === 202;
    if (isAccepted) call.resolve({ created: statusCode === 201, ...withReceipt(receipts[i]) });
    else if (!isRetryable(statusCode)) call.reject(toError({ ...answer, retryAfter: undefined }, results[i]));
    return !call.isSettled;
  });
}

/** @throws OpmError if the answer does not have one result per entry */
function readResults(answer: Answer, entries: number): unknown[] {
  const results = (answer.body as { results?: unknown } | null | undefined)?.results;
  if (answer.statusCode === 207 && Array.isArray(results) && results.length === entries) return results;
  throw toError(answer);
}

/** One receipt per entry, in order; none if the server is older than receipts. */
function readReceipts(answer: Answer, entries: number): unknown[] {
  const { receipts } = answer.body as { receipts?: unknown };
  return Array.isArray(receipts) && receipts.length === entries ? receipts : [];
}

const isOpen = ({ call }: EntryTask): boolean => !call.isSettled;

const statusOf = (result: unknown): number => Number((result as { statusCode?: unknown } | null)?.statusCode);

const isTransient = (result: unknown): boolean => isRetryable(statusOf(result));

interface RetryOptions {
  /** Whether the callers still want another attempt in `ms` milliseconds. */
  mayWait: (ms: number, failure: OpmError) => boolean;
  signal: AbortSignal;
}

/** Called for a 429 after which the same request is sent again. @returns the time to wait before that, in ms */
export type OnLimited = (answer: Answer) => number;

/**
 * Sends the request until the answer is not retryable. Every attempt has the same bytes and the same idempotency key,
 * unless the server remembers too many keys: then the request goes on without one, as that answer asks.
 * @param onLimited makes a 429 final, unless the server may have accepted an earlier attempt
 * @throws OpmError the last failure if `mayWait` refuses another attempt; the signal's reason
 */
export async function requestWithRetries(
  transport: Transport,
  { idempotencyKey, ...keyless }: Request,
  { mayWait, signal, onLimited }: RetryOptions & { onLimited?: OnLimited },
): Promise<Answer> {
  let key = idempotencyKey;
  let mayBeAccepted = false;
  for (let tries = 1; ; tries++) {
    const outcome = await tryOnce(transport, { ...keyless, ...(key !== undefined && { idempotencyKey: key }) }, signal);
    const answer = outcome instanceof ConnectionError ? undefined : outcome;
    if (answer && !isRetryable(answer.statusCode)) return answer;
    const failure = outcome instanceof ConnectionError ? outcome : toError(outcome);
    let ms = toDelayMs(tries, failure.retryAfter);
    if (answer && key !== undefined && isOutOfKeys(answer)) {
      key = undefined;
      ms = 0;
    } else if (answer && onLimited && isRateLimited(answer)) {
      // The server may have accepted an earlier attempt. Only a repeat with the same key can tell.
      if (!mayBeAccepted) return answer;
      ms = onLimited(answer);
    } else mayBeAccepted = true;
    await waitForRetry(ms, failure, { mayWait, signal });
  }
}

/** Waits before another attempt. @throws OpmError `failure` if `mayWait` refuses the delay; the signal's reason */
async function waitForRetry(ms: number, failure: OpmError, { mayWait, signal }: RetryOptions): Promise<void> {
  if (!mayWait(ms, failure)) throw failure;
  await delay(ms, undefined, { signal });
}

export function isRateLimited({ statusCode }: Pick<Answer, 'statusCode'>): boolean {
  return statusCode === RATE_LIMITED;
}

/**
 * Whether a 429 is about the number of idempotency keys, not about the rate limit. The server had no record of this
 * key, so no earlier attempt was accepted.
 */
function isOutOfKeys({ statusCode, body }: Pick<Answer, 'statusCode' | 'body'>): boolean {
  const message = (body as { message?: unknown } | null | undefined)?.message;
  return statusCode === RATE_LIMITED && typeof message === 'string' && message.includes('too many idempotency keys');
}

function isRetryable(statusCode: number): boolean {
  return RETRYABLE.has(statusCode);
}

async function tryOnce(transport: Transport, request: Request, signal: AbortSignal): Promise<Answer | ConnectionError> {
  try {
    return await transport.request(request, signal);
  } catch (error) {
    if (error instanceof ConnectionError) return error;
    throw error;
  }
}

/** Sends one request that changes nothing, with retries. */
export type Reader = (request: Request, options?: CallOptions) => Promise<Answer>;

type Read = { request: Request; call: Call<Answer> };

/** Creates a reader with at most `maxInFlight` reads in flight, so reads leave connections for entries. */
export function createReader(deps: { transport: Transport; calls: OpenCalls; maxInFlight: number }): Reader {
  const { transport, calls, maxInFlight } = deps;
  const waiting = new Set<Read>();
  let inFlight = 0;

  /** Starts the next waiting read in place of one that has ended. */
  function startNext(): void {
    for (const read of waiting) {
      waiting.delete(read);
      if (read.call.mayWait(0)) return void run(read);
    }
  }

  async function run({ request, call }: Read): Promise<void> {
    inFlight++;
    const options = { mayWait: call.mayWait.bind(call), signal: abortWhenSettled([call]) };
    await requestWithRetries(transport, request, options).then(
      (answer) => call.resolve(answer),
      (error) => call.reject(error),
    );
    inFlight--;
    startNext();
  }

  return (request, { signal } = {}) =>
    calls.open(signal, (call: Call<Answer>) => {
      const read = { request, call };
      if (inFlight < maxInFlight) return void run(read);
      waiting.add(read);
      void call.settled.then(() => waiting.delete(read));
    });
}
