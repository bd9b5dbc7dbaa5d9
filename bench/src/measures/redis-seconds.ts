import { withRedis } from '@opm/testkit';

/** Of processor that this Redis has taken since it started. */
export async function readRedisSeconds(redisUrl: string): Promise<number> {
  const cpu = await withRedis(redisUrl, (redis) => redis.info('cpu'));
  const secondsOf = (what: string) => Number(new RegExp(`^used_cpu_${what}:([\\d.]+)`, 'm').exec(cpu)?.[1]);
  return secondsOf('user') + secondsOf('sys');
}
