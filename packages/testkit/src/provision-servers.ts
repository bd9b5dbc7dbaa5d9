import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findFreePort, startEmbeddedPostgres } from '@opm/embedded';
import { areContainersDemanded, type Server, startPostgresContainer, startRedisContainer } from './containers.js';
import { findRedisProgram } from './find-program.js';
import { ANSWER_TIMEOUT_MS } from './start-app.js';
import { type RunningProgram, startProgram } from './start-process.js';
import { createTestDatabase, testPrefix } from './test-database.js';

export interface TestServers {
  /** URL of a role that may create databases. */
  databaseUrl: string;
  redisUrl: string;
  /** Stops the servers that were started here, not those that the environment named. Safe to call twice. */
  stop(): Promise<void>;
}

/** No data survives a test run, so none needs to reach the disk. */
const NOT_DURABLE = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off'];

/**
 * Provides real servers: those of DATABASE_URL and REDIS_URL, otherwise containers, otherwise local processes.
 * PostgreSQL and Redis are chosen independently. With OPM_TEST_SERVERS=containers, both are containers.
 * @param postgresFlags settings of a PostgreSQL that is started here; by default those for tests
 * @throws Error if OPM_TEST_SERVERS=containers and no Docker engine can run them
 */
export async function provisionServers({ postgresFlags = NOT_DURABLE } = {}): Promise<TestServers> {
  const postgres =
    fromEnvironment('DATABASE_URL') ??
    (await startPostgresContainer(postgresFlags)) ??
    (await startTemporaryPostgres(postgresFlags));
  try {
    const redis = fromEnvironment('REDIS_URL') ?? (await startRedis());
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

/** Starts a separate Redis, for tests that would disturb others on a shared one. */
export async function startRedis(): Promise<Server> {
  return (await startRedisContainer()) ?? startTemporaryRedis();
}

function fromEnvironment(name: string): Server | undefined {
  const url = process.env[name];
  return url && !areContainersDemanded() ? { url, stop: async () => {} } : undefined;
}

interface LocalRedisOptions {
  /** Directory of its files; it is kept when the server stops. */
  directory: string;
  /** By default a free port. */
  port?: number;
  /** Options in addition to listening on loopback only and `noeviction`. */
  flags: readonly string[];
  /** Variables in addition to those of this process. */
  env?: NodeJS.ProcessEnv | undefined;
  /** Whether it runs in its own process group, so that Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
  /** An alternative if this machine has no Redis, which completes "…, or". */
  alternative?: string;
}

export interface LocalRedis extends RunningProgram {
  url: string;
}

const REDIS_FLAGS = ['--bind', '127.0.0.1', '--save', '', '--maxmemory-policy', 'noeviction'];

/**
 * Runs the Redis of this machine; as root on Debian, installs it if it is missing.
 * @throws Error with the log if it does not start
 */
export async function startLocalRedis({
  directory,
  port,
  flags,
  env,
  detached = false,
  alternative,
}: LocalRedisOptions): Promise<LocalRedis> {
  const program = await findRedisProgram(alternative);
  const chosen = port ?? (await findFreePort());
  const logFile = join(directory, 'redis.log');
  const place = ['--port', String(chosen), '--dir', directory];
  const args = [...place, ...REDIS_FLAGS, ...flags];
  const running = await startProgram({ program, args, port: chosen, logFile, env, detached });
  return { ...running, url: `redis://127.0.0.1:${chosen}` };
}

/** Starts a Redis that stores nothing on disk. */
async function startTemporaryRedis(): Promise<Server> {
  return startTemporary(async (directory) => {
    const { url, stop } = await startLocalRedis({
      directory,
      flags: ['--appendonly', 'no'],
      alternative: 'start Docker, or set REDIS_URL',
    });
    return { url, stop: () => stop() };
  });
}

function startTemporaryPostgres(postgresFlags: readonly string[]): Promise<Server> {
  return startTemporary((directory) => startEmbeddedPostgres({ dataDir: join(directory, 'postgres'), postgresFlags }));
}

/** Starts a server in a temporary directory, which is removed when the server stops. */
async function startTemporary(start: (directory: string) => Promise<Server>): Promise<Server> {
  const directory = await mkdtemp(join(tmpdir(), 'opm-test-'));
  const remove = () => rm(directory, { recursive: true, force: true, maxRetries: 5 });
  try {
    await chmod(directory, 0o711); // If we run as root, the account of PostgreSQL must be able to enter the directory.
    const { url, stop } = await start(directory);
    return { url, stop: () => stop().then(remove) };
  } catch (error) {
    await remove();
    throw error;
  }
}

export type BackendName = 'Redis' | 'PostgreSQL';

/**
 * A separate database and, on Redis, a separate key prefix, as an environment for processes and as options for the
 * packages.
 */
export interface Backend {
  databaseUrl: string;
  redisUrl: string | undefined;
  prefix: string;
  answerTimeoutMs: number;
  env: NodeJS.ProcessEnv;
  drop(): Promise<void>;
}

/** For `describe.each(BACKENDS)`: runs the tests on both queue backends. */
export const BACKENDS: [BackendName, () => Promise<Backend>][] = [
  ['Redis', () => createBackend(process.env.OPM_TEST_REDIS_URL)],
  ['PostgreSQL', () => createBackend(undefined)],
];

/** @param redisUrl if undefined, the queue is in PostgreSQL */
export async function createBackend(redisUrl: string | undefined): Promise<Backend> {
  const database = await createTestDatabase();
  const prefix = testPrefix();
  return {
    databaseUrl: database.url,
    redisUrl,
    prefix,
    answerTimeoutMs: ANSWER_TIMEOUT_MS,
    env: { DATABASE_URL: database.url, REDIS_URL: redisUrl ?? '', REDIS_PREFIX: prefix },
    drop: database.drop,
  };
}
