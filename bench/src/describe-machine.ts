import { cpus } from 'node:os';
import { Redis } from 'ioredis';
import pg from 'pg';
import { describeGenerator } from './load/run-load.js';
import type { Servers } from './servers.js';

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

async function readPostgresVersion(connectionString: string): Promise<string> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  const { rows } = await client.query('SHOW server_version').finally(() => client.end());
  return rows[0].server_version.split(' ')[0];
}

async function readRedisVersion(redisUrl: string): Promise<string> {
  const redis = new Redis(redisUrl);
  const info = await redis.info('server').finally(() => redis.disconnect());
  return /^redis_version:(\S+)/m.exec(info)?.[1] ?? 'of unknown version';
}
