import { setTimeout as delay } from 'node:timers/promises';
import { query, withRedis } from '@opm/testkit';
import type { Redis } from 'ioredis';
import { openInFlight } from '../check/in-flight.js';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import { type ClusterVictim, type Pair, type RedisVictim, removeMemoryLimit } from '../stack/store-victims.js';
import type { HostShim } from '../stack/victim.js';
import { EVERYTHING, type Fault, type FaultKind, toEnd, toFreeze } from './faults.js';

/** Faults of a running Redis. */
export function createRedisFaults({ name, url }: RedisVictim): FaultKind[] {
  const findUrl = async () => url;
  return [
    { weight: 3, draw: (_, random) => ({ ...toFill(name, findUrl, random), victim: name }) },
    { weight: 1, draw: () => ({ ...toEndConnections(name, findUrl), victim: name }) },
  ];
}

type FindUrl = () => Promise<string>;

function toFill(name: string, findUrl: FindUrl, random: Random): Omit<Fault, 'victim'> {
  const forMs = random.between(500, 3_000);
  return { name: `fill ${name}`, run: async () => withRedis(await findUrl(), (redis) => fill(redis, forMs)) };
}

function toEndConnections(name: string, findUrl: FindUrl): Omit<Fault, 'victim'> {
  const end = async (redis: Redis) => void (await redis.call('CLIENT', 'KILL', 'TYPE', 'normal'));
  return { name: `end connections of ${name}`, run: async () => withRedis(await findUrl(), end) };
}

async function fill(redis: Redis, forMs: number): Promise<void> {
  const used = /^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1];
  await redis.config('SET', 'maxmemory', used ?? '1');
  await delay(forMs);
  await removeMemoryLimit(redis);
}

/**
 * The longest time that a node is away. Nodes declare another node dead after 2 s; faults are shorter and longer than
 * that.
 */
const MAX_GONE_MS = 6_000;

/** Nodes that exit, hang or swap roles, in one pair of master and replica at a time. */
export function createClusterFaults({ pairs }: ClusterVictim): FaultKind[] {
  const define = (weight: number, make: (pair: Pair, random: Random) => Omit<Fault, 'victim'>): FaultKind => ({
    weight,
    draw(_, random) {
      const pair = random.pick(pairs);
      return { ...make(pair, random), victim: pair.name };
    },
  });
  const goneMs = (random: Random) => random.between(0, MAX_GONE_MS);
  return [
    define(4, ({ master }, random) => toEnd('SIGKILL', master, goneMs(random))),
    define(1, ({ master }, random) => toEnd('SIGTERM', master, goneMs(random))),
    define(3, ({ master }, random) => toFreeze(master, goneMs(random))),
    define(2, ({ replica }, random) => toEnd('SIGKILL', replica, goneMs(random))),
    define(2, ({ replica }, random) => toFreeze(replica, goneMs(random))),
    define(3, ({ name, swap }) => ({ name: `swap ${name}`, run: swap })),
    define(1, ({ master: { name }, findMasterUrl }, random) => toFill(name, findMasterUrl, random)),
    define(1, ({ master: { name }, findMasterUrl }) => toEndConnections(name, findMasterUrl)),
  ];
}

/** The name of the fault below. */
export const EMPTIES_STORE = "empty the queue's store and put its clock back";

const HOUR_MS = 60 * 60_000;
/** Longer than an ingress takes to answer a request. */
const ANSWERS_MS = 2_000;

/**
 * The queue's store comes back empty and with its clock an hour behind: a new server replaces a lost one. The jobs in a
 * lost store would be lost, so the fault first keeps partners away until all jobs are done.
 */
export const EMPTY_STORE: FaultKind = {
  weight: 2,
  draw(stack, random) {
    const forMs = random.between(500, 6_000);
    return {
      name: EMPTIES_STORE,
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
  const inFlight = await openInFlight(queue);
  await inFlight.drain().finally(inFlight.close);
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

const ADMISSION_TABLES = [
  ...['shards', 'claims', 'pending_erasures', 'backlogs'],
  ...['idempotency_records', 'idempotency_record_bytes'],
]
  .map((table) => `admission.${table}`)
  .join(', ');
