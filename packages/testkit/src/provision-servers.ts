import { startPostgresContainer, startRedisContainer } from './containers.js';
import { startLocalPostgres, startLocalRedis } from './local-servers.js';

/** A server for the time of a test run. */
export interface Server {
  url: string;
  stop(): Promise<void>;
}

export interface TestServers {
  /** A role that may create databases. */
  databaseUrl: string;
  redisUrl: string;
  /** Stops what was started here; servers that were given stay. Safe to call twice. */
  stop(): Promise<void>;
}

/** Real servers: those of DATABASE_URL and REDIS_URL, else containers, else local processes; each decided on its own. */
export async function provisionServers(): Promise<TestServers> {
  const postgres = given('DATABASE_URL') ?? (await startPostgresContainer()) ?? (await startLocalPostgres());
  try {
    const redis = given('REDIS_URL') ?? (await startRedis());
    let stopped: Promise<void> | undefined;
    return {
      databaseUrl: postgres.url,
      redisUrl: redis.url,
      stop: () => {
        stopped ??= redis.stop().finally(postgres.stop);
        return stopped;
      },
    };
  } catch (error) {
    await postgres.stop();
    throw error;
  }
}

/** A Redis of one's own, for what would hurt others on a shared one. */
export async function startRedis(): Promise<Server> {
  return (await startRedisContainer()) ?? startLocalRedis();
}

function given(name: string): Server | undefined {
  const url = process.env[name];
  return url ? { url, stop: async () => {} } : undefined;
}
