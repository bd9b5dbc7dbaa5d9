import { cpus } from 'node:os';
import { describeGenerator } from './load/run-load.js';
import { query } from './query.js';
import type { Servers } from './servers.js';
import { withRedis } from './with-redis.js';

/** What figures depend on, in one line. */
export async function describeMachine({ databaseUrl, redisUrl }: Servers): Promise<string> {
  const [cpu] = cpus();
  const parts = [
    `${cpus().length} × ${cpu?.model.trim()}`,
    `Node.js ${process.versions.node}`,
    `PostgreSQL ${await readPostgresVersion(databaseUrl)}`,
    `Redis ${await readRedisVersion(redisUrl)}`,
    `load by ${await describeGenerator()}`,
    new Date().toISOString().slice(0, 10),
  ];
  return parts.join(', ');
}

async function readPostgresVersion(databaseUrl: string): Promise<string> {
  const [row] = await query<{ server_version: string }>(databaseUrl, 'SHOW server_version');
  return row?.server_version.split(' ')[0] ?? 'of unknown version';
}

async function readRedisVersion(redisUrl: string): Promise<string> {
  const info = await withRedis(redisUrl, (redis) => redis.info('server'));
  return /^redis_version:(\S+)/m.exec(info)?.[1] ?? 'of unknown version';
}
