import { withRedis } from '@opm/testkit';

/** Of processor that this Redis has taken since it started. */
export async function readRedisSeconds(redisUrl: string): Promise<number> {
  const cpu = await withRedis(redisUrl, (redis) => redis.info('cpu'));
  const secondsOf = (what: string) => Number(new RegExp(`^used_cpu_${what}:([\\d.]+)`, 'm').exec(cpu)?.[1]);
  return secondsOf('user') + secondsOf('sys');
}

/** Bytes that this Redis holds at present. */
export async function readUsedMemory(redisUrl: string): Promise<number> {
  const info = await withRedis(redisUrl, (redis) => redis.info('memory'));
  return Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
}
