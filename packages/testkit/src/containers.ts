import { setTimeout as delay } from 'node:timers/promises';
import type { Server } from './provision-servers.js';

const POSTGRES_IMAGE = 'postgres:17';
const REDIS_IMAGE = 'redis:8';
/** A registry out of reach may never answer; a local server is there in a second. */
const START_TIMEOUT_MS = 60_000;

export function startPostgresContainer(postgresFlags: readonly string[]): Promise<Server | undefined> {
  return tryContainer(POSTGRES_IMAGE, async () => {
    const { PostgreSqlContainer } = await import('@testcontainers/postgresql');
    const settings = ['max_connections=200', ...postgresFlags].flatMap((flag) => ['-c', flag]);
    const container = await new PostgreSqlContainer(POSTGRES_IMAGE).withCommand(['postgres', ...settings]).start();
    return toServer(container.getConnectionUri(), container);
  });
}

export function startRedisContainer(): Promise<Server | undefined> {
  return tryContainer(REDIS_IMAGE, async () => {
    const { RedisContainer } = await import('@testcontainers/redis');
    const container = await new RedisContainer(REDIS_IMAGE).start();
    return toServer(container.getConnectionUrl(), container);
  });
}

/** Undefined where there is no Docker engine, or where it cannot get or run the image; only the latter is worth a line. */
async function tryContainer(image: string, start: () => Promise<Server>): Promise<Server | undefined> {
  const starting = start();
  const timeout = new AbortController();
  try {
    return await Promise.race([starting, rejectAfter(START_TIMEOUT_MS, timeout.signal)]);
  } catch (error) {
    // One that comes up after all must not stay behind.
    starting.then((server) => server.stop()).catch(() => {});
    const reason = error instanceof Error ? error.message : String(error);
    if (!reason.includes('container runtime')) {
      process.stderr.write(`Docker cannot run ${image}, taking a local server instead: ${reason.split('\n')[0]}\n`);
    }
    return undefined;
  } finally {
    timeout.abort();
  }
}

async function rejectAfter(timeoutMs: number, signal: AbortSignal): Promise<never> {
  await delay(timeoutMs, undefined, { signal });
  throw new Error(`not ready after ${timeoutMs} ms`);
}

function toServer(url: string, container: { stop(): Promise<unknown> }): Server {
  return {
    url,
    stop: async () => {
      await container.stop();
    },
  };
}
