import { shardOf } from '@opm/queue';
import { waitFor } from '@opm/testkit';
import pg from 'pg';
import { request } from 'undici';
import type { Stack } from './stack/stack.js';

const TIMEOUT_MS = 5_000;
let probes = 0;

/**
 * Resolves when every process says that it is ready, every ingress acknowledges an entry for each shard and these entries
 * are rows, and a cluster has what the next fault may take: then partners and operators see nothing any more of what went
 * wrong. @throws Error where one of these takes longer than `maxMs`
 */
export async function untilRecovered(stack: Stack, maxMs: number): Promise<void> {
  const { urls, postgres, probing, ingresses, workers, queue, cluster } = stack;
  const options = (what: string) => ({ description: `${what} after the fault`, timeoutMs: maxMs });
  const { apiKey, projectId } = probing;
  const probe = async (url: string, shard: number) => {
    const customerId = nextProbe(projectId, shard, queue.shards);
    await waitFor(() => isAcknowledged(url, apiKey, customerId), options('acknowledgements'));
    return customerId;
  };
  const shards = Array.from({ length: queue.shards }, (_, shard) => shard);
  const [ids] = await Promise.all([
    Promise.all(urls.flatMap((url) => shards.map((shard) => probe(url, shard)))),
    cluster?.waitUntilWhole(),
    ...[...ingresses, ...workers].map(({ name, isReady }) => waitFor(isReady, options(`${name} to be ready`))),
  ]);
  await waitFor(() => areRows(postgres.url, projectId, ids), options('rows'));
}

function nextProbe(projectId: number, shard: number, shards: number): string {
  for (;;) {
    const customerId = `probe-${++probes}`;
    if (shardOf(projectId, customerId, shards) === shard) return customerId;
  }
}

async function isAcknowledged(url: string, apiKey: string, customerId: string): Promise<boolean> {
  const { statusCode, body } = await request(`${url}/entry`, {
    method: 'POST',
    headers: { 'x-api-key': apiKey },
    body: JSON.stringify({ customerId, customerPhone: '+1' }),
    reset: true, // a connection of its own, as the next one may need another
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
  });
  await body.dump();
  return statusCode === 201 || statusCode === 202;
}

async function areRows(databaseUrl: string, projectId: number, ids: string[]): Promise<boolean> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: TIMEOUT_MS });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rowCount } = await client.query('SELECT FROM customers WHERE project_id = $1 AND customer_id = ANY($2)', [
      projectId,
      ids,
    ]);
    return rowCount === ids.length;
  } finally {
    await client.end();
  }
}
