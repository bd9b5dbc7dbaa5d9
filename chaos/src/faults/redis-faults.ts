import { setTimeout as delay } from 'node:timers/promises';
import { withRedis } from '@opm/testkit';
import type { Redis } from 'ioredis';
import type { Random } from '../random.js';
import type { RedisVictim } from '../stack/redis-victim.js';
import type { Fault, FaultKind } from './fault.js';

/** A Redis that is there, and does not do what it should. */
export function createRedisFaults({ name, url }: RedisVictim): FaultKind[] {
  const findUrl = async () => url;
  return [
    { weight: 3, draw: (_, random) => ({ ...toFill(name, findUrl, random), victim: name }) },
    { weight: 1, draw: () => ({ ...toEndConnections(name, findUrl), victim: name }) },
  ];
}

type FindUrl = () => Promise<string>;

export function toFill(name: string, findUrl: FindUrl, random: Random): Omit<Fault, 'victim'> {
  const forMs = random.between(500, 3_000);
  return { name: `fill ${name}`, run: async () => withRedis(await findUrl(), (redis) => fill(redis, forMs)) };
}

export function toEndConnections(name: string, findUrl: FindUrl): Omit<Fault, 'victim'> {
  const end = async (redis: Redis) => void (await redis.call('CLIENT', 'KILL', 'TYPE', 'normal'));
  return { name: `end connections of ${name}`, run: async () => withRedis(await findUrl(), end) };
}

async function fill(redis: Redis, forMs: number): Promise<void> {
  const used = /^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1];
  await redis.config('SET', 'maxmemory', used ?? '1');
  await delay(forMs);
  await empty(redis);
}

export const empty = (redis: Redis) => redis.config('SET', 'maxmemory', '0');
