import type { components, paths } from './opm.js';

// The generated type does not say that every entry needs an id.
export type Entry = components['schemas']['Entry'] & { customerId: string | number };
export type BatchAnswer = paths['/entries']['post']['responses'][207]['content']['application/json'];

/**
 * Sends up to 1,000 entries. Without an answer, or if it or a result is 429 or 5xx, repeat with the same entries and
 * key. If a 429 says that too many idempotency keys are remembered, repeat without one; after a 207, only what is 429
 * or 5xx.
 * @param idempotencyKey a new one for each batch, such as `crypto.randomUUID()`
 * @returns one result per entry, in order
 */
export async function sendEntries(
  url: string,
  apiKey: string,
  entries: readonly Entry[],
  idempotencyKey: string | undefined,
): Promise<BatchAnswer> {
  const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
  const response = await fetch(`${url}/entries`, {
    method: 'POST',
    headers: idempotencyKey === undefined ? headers : { ...headers, 'idempotency-key': idempotencyKey },
    body: JSON.stringify(entries),
    signal: AbortSignal.timeout(10_000),
  });
  if (response.status !== 207) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()) as BatchAnswer;
}
