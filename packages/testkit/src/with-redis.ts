import { Redis } from 'ioredis';

/** Over a connection of its own. */
export async function withRedis<T>(redisUrl: string, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(redisUrl).on('error', () => {});
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
}
