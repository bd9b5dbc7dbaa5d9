import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';

const POSTGRES_IMAGE = 'postgres:17';
const REDIS_IMAGE = 'redis:8';
/** An unreachable registry may never answer; a local server starts in a second. */
const START_TIMEOUT_MS = 60_000;
/** Used if there is no fallback: a busy machine gets more time. */
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
      // Runs until the server is up. The default health check would start a process in the container four times a
      // second, for ever.
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

/**
 * Returns undefined if there is no Docker engine, or if it cannot pull or run the image; only the latter prints a line.
 */
async function tryContainer(image: string, start: () => Promise<Server>): Promise<Server | undefined> {
  // `removeLeftContainers` does the work of the reaper, which would be another image to pull, with access to Docker's
  // socket.
  process.env.TESTCONTAINERS_RYUK_DISABLED ??= 'true';
  const starting = start();
  if (areContainersDemanded()) return starting;
  const timeout = new AbortController();
  try {
    return await Promise.race([starting, rejectAfter(START_TIMEOUT_MS, timeout.signal)]);
  } catch (error) {
    // Stops a container that starts after the timeout.
    starting.then((server) => server.stop()).catch(() => {});
    const reason = error instanceof Error ? error.message : String(error);
    if (!reason.includes('container runtime')) {
      process.stderr.write(`Docker cannot run ${image}, using a local server instead: ${reason.split('\n')[0]}\n`);
    }
    return undefined;
  } finally {
    timeout.abort();
  }
}

/**
 * Whether OPM_TEST_SERVERS demands containers.
 * @throws Error if OPM_TEST_SERVERS has an unknown value, because the tests would run on other servers than intended
 */
export function areContainersDemanded({ OPM_TEST_SERVERS } = process.env): boolean {
  if (!OPM_TEST_SERVERS || OPM_TEST_SERVERS === 'containers') return OPM_TEST_SERVERS === 'containers';
  throw new Error(`OPM_TEST_SERVERS is "${OPM_TEST_SERVERS}"; set it to "containers" or leave it unset`);
}

async function rejectAfter(timeoutMs: number, signal: AbortSignal): Promise<never> {
  await delay(timeoutMs, undefined, { signal });
  throw new Error(`not ready after ${timeoutMs} ms`);
}

/**
 * Replaces `localhost` by 127.0.0.1: Docker chooses ports for IPv4 and IPv6 separately, so over IPv6 the port may
 * belong to another container.
 */
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

/** Label of the containers of a test run; its value is the id of the run. */
const TEST_RUN_LABEL = 'opm.test-run';

const RUN_ID_VARIABLE = 'OPM_TEST_RUN';

/**
 * The id of this test run. Processes inherit it if the first process has called this function before it starts them.
 */
export function testRunId(): string {
  process.env[RUN_ID_VARIABLE] ||= randomUUID();
  return process.env[RUN_ID_VARIABLE];
}

/**
 * Removes the containers that this run started and did not stop, and returns their images. Does nothing without Docker.
 */
export async function removeLeftContainers(): Promise<string[]> {
  const docker = await findDocker();
  const filters = { label: [`${TEST_RUN_LABEL}=${testRunId()}`] };
  const left = (await docker?.listContainers({ all: true, filters })) ?? [];
  await Promise.all(left.map(({ Id }) => docker?.getContainer(Id).remove({ force: true, v: true })));
  return left.map(({ Image }) => Image);
}

/** The Docker engine that testcontainers uses; undefined if there is none. */
async function findDocker() {
  const { getContainerRuntimeClient } = await import('testcontainers');
  const client = await getContainerRuntimeClient().catch(() => undefined);
  return client?.container.dockerode;
}

/** A server that exists during a test run. */
export interface Server {
  url: string;
  stop(): Promise<void>;
}
