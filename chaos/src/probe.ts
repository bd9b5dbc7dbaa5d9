import { setTimeout as delay } from 'node:timers/promises';
import { shardOf } from '@opm/queue';
import { waitFor } from '@opm/testkit';
import pg from 'pg';
import { request } from 'undici';
import type { AppVictim } from './stack/app-victim.js';
import type { Stack } from './stack/stack.js';

const TIMEOUT_MS = 5_000;
let probes = 0;

/**
 * Resolves when partners and operators no longer see an effect of the fault: every process is ready, every ingress
 * acknowledges an entry for each shard, these entries are rows, and every pair of a cluster is whole again.
 * @throws Error if one of these takes longer than `maxMs`
 */
export async function waitUntilRecovered(stack: Stack, maxMs: number): Promise<void> {
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
  await waitFor(() => areStored(postgres.url, projectId, ids), options('rows'));
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
    reset: true, // A new connection each time: a reused one may be broken.
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
  });
  await body.dump();
  return statusCode === 201 || statusCode === 202;
}

async function areStored(databaseUrl: string, projectId: number, ids: string[]): Promise<boolean> {
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

/** The most memory that any process of the kind had, in bytes. */
export type Memory = { ingress: number; worker: number };

const INTERVAL_MS = 1_000;

/** Reads the memory of every process once a second, or as often as the process answers. */
export function watchMemory({ ingresses, workers }: Stack): { memory: Memory; stop(): Promise<void> } {
  const memory: Memory = { ingress: 0, worker: 0 };
  const end = new AbortController();
  async function watch(kind: keyof Memory, app: AppVictim): Promise<void> {
    while (!end.signal.aborted) {
      memory[kind] = Math.max(memory[kind], await app.readMetric('process_resident_memory_bytes'));
      await delay(INTERVAL_MS, undefined, { signal: end.signal }).catch(() => {});
    }
  }
  const watching = Promise.all([
    ...ingresses.map((app) => watch('ingress', app)),
    ...workers.map((app) => watch('worker', app)),
  ]);
  return {
    memory,
    async stop() {
      end.abort();
      await watching;
    },
  };
}
