import { cpus } from 'node:os';
import { query } from './query.js';
import { withRedis } from './with-redis.js';

/** What figures depend on, in one line that ends with today's date. @param others further parts of it */
export async function describeMachine(
  { databaseUrl, redisUrl }: { databaseUrl: string; redisUrl?: string | undefined },
  others: string[] = [],
): Promise<string> {
  const [cpu] = cpus();
  const redis = redisUrl === undefined ? [] : [`Redis ${await readRedisVersion(redisUrl)}`];
  const parts = [
    `${cpus().length} × ${cpu?.model.trim()}`,
    `Node.js ${process.versions.node}`,
    `PostgreSQL ${await readPostgresVersion(databaseUrl)}`,
    ...redis,
    ...others,
    new Date().toISOString().slice(0, 10),
  ];
  return parts.join(', ');
}

async function readPostgresVersion(databaseUrl: string): Promise<string> {
  const [row] = await query<{ server_version: string }>(databaseUrl, 'SHOW server_version');
  return row?.server_version.split(' ')[0] ?? 'of unknown version';
}

async function readRedisVersion(redisUrl: string): Promise<string> {
  const [first = redisUrl] = redisUrl.split(',');
  const info = await withRedis(first, (redis) => redis.info('server'));
  return /^redis_version:(\S+)/m.exec(info)?.[1] ?? 'of unknown version';
}
