import autocannon from 'autocannon';
import type { Measured, Stream } from './run-load.js';

/** The same entries as load/entries.lua, where there is no wrk. */
export async function loadWithAutocannon(stream: Stream): Promise<Measured> {
  const { target, seconds, connections, rate } = stream;
  const nextBody = createBodies(stream);
  const headers = { 'x-api-key': target.apiKey, 'content-type': 'application/json' };
  const { requests, duration, non2xx, errors, latency } = await autocannon({
    url: `${target.url}/entry`,
    connections,
    duration: seconds,
    requests: [{ method: 'POST', headers, setupRequest: (request) => ({ ...request, body: nextBody() }) }],
    ...(rate === undefined ? {} : { overallRate: rate }),
  });
  return {
    requests: requests.total,
    seconds: duration,
    refused: non2xx,
    socketErrors: errors,
    p50Ms: latency.p50,
    p99Ms: latency.p99,
  };
}

function createBodies({ ids, customers }: Stream): () => string {
  let requests = 0;
  return () => {
    const customer = customers === 'new' ? ++requests : 1 + Math.floor(Math.random() * customers.known);
    const n = String(customer).padStart(10, '0');
    return JSON.stringify({
      customerId: `${ids}${n}`,
      customerEmail: `customer.${n}@example.com`,
      customerPhone: `+49 30 ${n}`,
      customerFirstName: 'First',
      customerLastName: `Last ${n}`,
      customerIP: '203.0.113.7',
    });
  };
}
