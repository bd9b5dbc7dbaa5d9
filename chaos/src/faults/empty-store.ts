import { setTimeout as delay } from 'node:timers/promises';
import { query, withRedis } from '@opm/testkit';
import { openRemains } from '../check/remains.js';
import type { HostShim } from '../stack/host-shim.js';
import type { Stack } from '../stack/stack.js';
import { EVERYTHING, type FaultKind } from './fault.js';

const HOUR_MS = 60 * 60_000;
/** Longer than an ingress takes for a request. */
const ANSWERS_MS = 2_000;

/**
 * The queue's store comes back empty, and its clock is an hour behind: a new server in the place of one that was lost. What
 * it held would be lost with it, so its jobs are done before, while partners are kept away.
 */
export const EMPTY_STORE: FaultKind = {
  weight: 2,
  draw(stack, random) {
    const forMs = random.between(500, 6_000);
    return {
      name: `empty the queue's store and put its clock back`,
      victim: EVERYTHING,
      async run() {
        for (const { proxy } of stack.partnerLinks) await proxy.cut();
        await delay(ANSWERS_MS);
        await drain(stack);
        for (const shim of shimsOf(stack)) await shim.setClock(-HOUR_MS);
        await empty(stack);
        for (const { proxy } of stack.partnerLinks) await proxy.restore();
        await delay(forMs);
        for (const shim of shimsOf(stack)) await shim.setClock(0);
      },
    };
  },
};

async function drain({ queue }: Stack): Promise<void> {
  const remains = await openRemains(queue);
  await remains.drain().finally(remains.close);
}

function shimsOf({ postgres, redis, cluster }: Stack): HostShim[] {
  if (cluster) return cluster.pairs.map(({ shim }) => shim);
  return [(redis ?? postgres).shim];
}

async function empty({ postgres, redis, cluster }: Stack): Promise<void> {
  const urls = redis
    ? [redis.url]
    : await Promise.all((cluster?.pairs ?? []).map(({ findMasterUrl }) => findMasterUrl()));
  for (const url of urls) await withRedis(url, (client) => client.flushall());
  if (urls.length === 0) await query(postgres.url, `TRUNCATE ${ADMISSION_TABLES}`);
}

const ADMISSION_TABLES = ['shards', 'claims', 'pending_erasures', 'backlogs']
  .map((table) => `admission.${table}`)
  .join(', ');
