import { randomUUID } from 'node:crypto';
import { type Call, toSignal } from './call.js';
import { type OpmError, toError } from './errors.js';
import type { Answer, Transport } from './http-transport.js';
import { isRateLimited, isRetryable, requestWithRetries, waitForRetry } from './retries.js';

export interface EntryTask {
  customerId: string;
  entry: string;
  call: Call<{ created: boolean }>;
}

/** What has become of tasks whose calls may still be open: nothing was done with those that the project's limit has refused. */
export type Sent<T> = { answer: Answer } & ({ limited: readonly T[]; refusal: OpmError } | { limited?: undefined });

/**
 * Sends the entries with one request, and those of them that the server could not take with another one, until each call
 * is settled or has reached the project's limit. What a failure leaves open is the caller's to settle.
 */
export async function sendEntries(transport: Transport, tasks: readonly EntryTask[]): Promise<Sent<EntryTask>> {
  let open = tasks;
  for (let tries = 1; ; tries++) {
    const signal = toSignal(open.map(({ call }) => call));
    const options = { mayWait: mayWaitAny(open), signal, isFinal: isRateLimited };
    const answer = await requestWithRetries(transport, toRequest(open), options);
    if (isRateLimited(answer)) return { limited: open, refusal: toError(answer), answer };
    const results = readResults(answer, open.length);
    const left = settle(open, results, answer);
    const limit = results.find((result) => isRateLimited({ statusCode: statusOf(result) }));
    if (limit) return { limited: left, refusal: toError(answer, limit), answer };
    if (left.length === 0) return { answer };
    const refusal = toError(answer, results.find(isRefusedForNow));
    await waitForRetry(tries, refusal, { mayWait: mayWaitAny(left), signal });
    open = left.filter(isOpen);
    if (open.length === 0) return { answer };
  }
}

/** The tries of a request share a key, by which the server knows a repeat; other entries are another request. */
function toRequest(tasks: readonly EntryTask[]) {
  const body = `[${tasks.map(({ entry }) => entry).join()}]`;
  return { method: 'POST', path: '/entries', body, idempotencyKey: randomUUID() } as const;
}

/** A call that may not wait fails at once. Its entry stays in the request, which would be another one without it. */
const mayWaitAny =
  (tasks: readonly EntryTask[]) =>
  (ms: number, failure: OpmError): boolean =>
    tasks.filter(({ call }) => call.mayWait(ms, failure)).length > 0;

/** @returns the tasks to be sent again, in order */
function settle(tasks: readonly EntryTask[], results: unknown[], answer: Answer): EntryTask[] {
  return tasks.filter(({ call }, i) => {
    const statusCode = statusOf(results[i]);
    if (statusCode === 201 || statusCode === 202) call.resolve({ created: statusCode === 201 });
    else if (!isRetryable(statusCode)) call.reject(toError({ ...answer, retryAfter: undefined }, results[i]));
    return !call.isSettled;
  });
}

/** @throws OpmError where the answer is none about these entries */
function readResults(answer: Answer, entries: number): unknown[] {
  const results = (answer.body as { results?: unknown } | null | undefined)?.results;
  if (answer.statusCode === 207 && Array.isArray(results) && results.length === entries) return results;
  throw toError(answer);
}

const isOpen = ({ call }: EntryTask): boolean => !call.isSettled;

const statusOf = (result: unknown): number => Number((result as { statusCode?: unknown } | null)?.statusCode);

const isRefusedForNow = (result: unknown): boolean => isRetryable(statusOf(result));
