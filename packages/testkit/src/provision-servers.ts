import { areContainersDemanded, startPostgresContainer, startRedisContainer } from './containers.js';
import { startTemporaryPostgres, startTemporaryRedis } from './local-servers.js';

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

/** Nothing survives a run of the tests, so nothing needs to reach the disk. */
const FORGETFUL = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off'];

/**
 * Real servers: those of DATABASE_URL and REDIS_URL, else containers, else local processes; each decided on its own.
 * With OPM_TEST_SERVERS=containers these it must be: rejects where there is no Docker engine that can run them.
 * @param postgresFlags settings of a PostgreSQL that is started here; unless given, it is one for tests
 */
export async function provisionServers({ postgresFlags = FORGETFUL } = {}): Promise<TestServers> {
  const postgres =
    given('DATABASE_URL') ??
    (await startPostgresContainer(postgresFlags)) ??
    (await startTemporaryPostgres(postgresFlags));
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
  return (await startRedisContainer()) ?? startTemporaryRedis();
}

function given(name: string): Server | undefined {
  const url = process.env[name];
  return url && !areContainersDemanded() ? { url, stop: async () => {} } : undefined;
}
