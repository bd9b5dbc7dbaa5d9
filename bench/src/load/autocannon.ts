import autocannon from 'autocannon';
import type { Measured, Stream } from './run-load.js';

/** The same entries as load/entries.lua, where there is no wrk. */
export async function loadWithAutocannon(stream: Stream): Promise<Measured> {
  const { target, seconds, path, connections, rate } = stream;
  const nextEntry = createEntries(stream);
  const nextBody = () => JSON.stringify(stream.batch ? Array.from({ length: stream.batch }, nextEntry) : nextEntry());
  const keys = target.turns ?? [target.apiKey];
  let turn = 0;
  const nextHeaders = () => ({
    'x-api-key': keys[turn++ % keys.length] as string,
    'content-type': 'application/json',
  });
  const { requests, duration, non2xx, errors, latency } = await autocannon({
    url: target.url + path,
    connections,
    duration: seconds,
    requests: [
      { method: 'POST', setupRequest: (request) => ({ ...request, headers: nextHeaders(), body: nextBody() }) },
    ],
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

function createEntries({ ids, customers }: Stream): () => object {
  let requests = 0;
  return () => {
    const customer = customers === 'new' ? ++requests : 1 + Math.floor(Math.random() * customers.known);
    const n = String(customer).padStart(10, '0');
    return {
      customerId: `${ids}${n}`,
      customerEmail: `customer.${n}@example.com`,
      customerPhone: `+49 30 ${n}`,
      customerFirstName: 'First',
      customerLastName: `Last ${n}`,
      customerIP: '203.0.113.7',
    };
  };
}
