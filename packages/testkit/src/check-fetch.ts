import type { ContractCheck } from './contract-check.js';
import { ingressOrigins } from './start-app.js';

/** What describes the API is not in its own description. */
const DESCRIPTION = /^\/(openapi\.json|docs)\b/;

/** From now on `fetch` rejects where an ingress that `startApp` has started gives an answer that the check refuses. */
export function checkFetch(check: ContractCheck): void {
  const { fetch } = globalThis;
  globalThis.fetch = async (input, init) => {
    const response = await fetch(input, init);
    const { origin, pathname } = new URL(input instanceof Request ? input.url : input);
    const isGiven = response.ok || response.status === 304;
    if (!ingressOrigins.has(origin) || (isGiven && DESCRIPTION.test(pathname))) return response;
    check({
      request: { method: init?.method ?? 'GET', path: pathname },
      status: response.status,
      headers: new Map(response.headers),
      body: await response.clone().text(),
    });
    return response;
  };
}
