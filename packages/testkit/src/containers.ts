import { setTimeout as delay } from 'node:timers/promises';
import { TEST_RUN_LABEL, testRunId } from './left-containers.js';
import type { Server } from './provision-servers.js';

const POSTGRES_IMAGE = 'postgres:17';
const REDIS_IMAGE = 'redis:8';
/** A registry out of reach may never answer; a local server is there in a second. */
const START_TIMEOUT_MS = 60_000;
/** Where there is no other server to take, a busy machine has its time. */
const PATIENT_TIMEOUT_MS = 300_000;
const HOUR_MS = 3_600_000;

export function startPostgresContainer(postgresFlags: readonly string[]): Promise<Server | undefined> {
  return tryContainer(POSTGRES_IMAGE, async () => {
    const [{ PostgreSqlContainer }, { Wait }] = await Promise.all([
      import('@testcontainers/postgresql'),
      import('testcontainers'),
    ]);
    const settings = ['max_connections=200', ...postgresFlags].flatMap((flag) => ['-c', flag]);
    const container = await new PostgreSqlContainer(POSTGRES_IMAGE)
      .withCommand(['postgres', ...settings])
      // Asked until it is up. The default goes on to ask four times a second, each time with a process in the container.
      .withWaitStrategy(Wait.forSuccessfulCommand('pg_isready -h 127.0.0.1'))
      .withHealthCheck({ test: ['CMD', 'true'], interval: HOUR_MS })
      .withLabels({ [TEST_RUN_LABEL]: testRunId() })
      .withStartupTimeout(PATIENT_TIMEOUT_MS)
      .start();
    return toServer(container.getConnectionUri(), container);
  });
}

export function startRedisContainer(): Promise<Server | undefined> {
  return tryContainer(REDIS_IMAGE, async () => {
    const { RedisContainer } = await import('@testcontainers/redis');
    const container = await new RedisContainer(REDIS_IMAGE)
      .withLabels({ [TEST_RUN_LABEL]: testRunId() })
      .withStartupTimeout(PATIENT_TIMEOUT_MS)
      .start();
    return toServer(container.getConnectionUrl(), container);
  });
}

/** Undefined where there is no Docker engine, or where it cannot get or run the image; only the latter is worth a line. */
async function tryContainer(image: string, start: () => Promise<Server>): Promise<Server | undefined> {
  // What its reaper does is done by removeLeftContainers, without one more image to pull that gets Docker's socket.
  process.env.TESTCONTAINERS_RYUK_DISABLED ??= 'true';
  const starting = start();
  if (areContainersDemanded()) return starting;
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

/** @throws Error where OPM_TEST_SERVERS says what nobody knows: the tests would run, and prove something else */
export function areContainersDemanded({ OPM_TEST_SERVERS } = process.env): boolean {
  if (!OPM_TEST_SERVERS || OPM_TEST_SERVERS === 'containers') return OPM_TEST_SERVERS === 'containers';
  throw new Error(`OPM_TEST_SERVERS is "${OPM_TEST_SERVERS}"; it can be "containers", or left out`);
}

async function rejectAfter(timeoutMs: number, signal: AbortSignal): Promise<never> {
  await delay(timeoutMs, undefined, { signal });
  throw new Error(`not ready after ${timeoutMs} ms`);
}

/** By its address: over IPv6 `localhost` may have another container at the same port, for Docker chooses it for each alone. */
function toServer(uri: string, container: { stop(): Promise<unknown> }): Server {
  const url = new URL(uri);
  if (url.hostname === 'localhost') url.hostname = '127.0.0.1';
  return {
    url: url.href,
    stop: async () => {
      await container.stop();
    },
  };
}
