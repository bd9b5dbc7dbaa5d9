import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { appendFile, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseEnv, promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export type ComposeProject = Awaited<ReturnType<typeof createComposeProject>>;

/**
 * The repository's docker-compose.yml with an .env as README.md has it made, and these settings more, on free ports. It has
 * images of its own: Compose labels them with the project, and replaces what runs, and all that depends on it, when another
 * project gives a tag to its own.
 */
export async function createComposeProject(purpose: string, settings: NodeJS.Dict<string> = {}) {
  const run = process.env.OPM_TEST_COMPOSE_RUN as string;
  const name = `${run}-${purpose}`;
  const directory = await mkdtemp(join(tmpdir(), 'opm-compose-'));
  await symlink(join(ROOT, 'deploy'), join(directory, 'deploy')); // for the commands of the guides
  const envFile = join(directory, '.env');
  const own = { IMAGE_TAG: name, ...(await toOwnSettings()), ...settings };
  const example = await readFile(join(ROOT, '.env.example'), 'utf8');
  await writeFile(envFile, example + toEnvLines(own));
  // What the shell has would win over the file.
  const written = parseEnv(await readFile(envFile, 'utf8'));
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !(key in written)));

  /** @returns what it wrote to stdout; rejects with what it wrote to stderr */
  const docker = async (...args: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)('docker', args, { cwd: ROOT, env, maxBuffer: 64 * 1024 * 1024 });
    return stdout.trim();
  };
  const place = ['--project-name', name, '--file', 'docker-compose.yml', '--env-file', envFile, '--progress', 'plain'];
  const compose = (...args: string[]) => docker('compose', ...place, ...args);
  /** Ids; of containers that have ended, too. */
  const list = async (kind: 'container' | 'volume' | 'network'): Promise<string[]> => {
    const all = kind === 'container' ? ['--all'] : [];
    const filter = `label=com.docker.compose.project=${name}`;
    return toLines(await docker(kind, 'ls', '--quiet', ...all, '--filter', filter));
  };
  const inspect = async (ids: string[]): Promise<Inspected[]> =>
    JSON.parse(await docker('container', 'inspect', ...ids));

  return {
    name,
    docker,
    compose,
    /** Sets others in the .env, for what is called from now on. */
    change: (settings: Record<string, string>) => appendFile(envFile, toEnvLines(settings)),
    /** Runs commands as a guide has them; what they write stays out of the repository. */
    async run(script: string): Promise<void> {
      const chosen = {
        COMPOSE_PROJECT_NAME: name,
        COMPOSE_ENV_FILES: envFile,
        COMPOSE_FILE: join(ROOT, 'docker-compose.yml'),
      };
      await promisify(execFile)('sh', ['-c', script], { cwd: directory, env: { ...env, ...chosen } });
    },
    url: `http://127.0.0.1:${own.PORT}`,
    ports: { ingress: own.PORT, console: own.CONSOLE_PORT, postgres: own.POSTGRES_PORT, redis: own.REDIS_PORT },
    databaseUrl: `postgresql://opm:${own.POSTGRES_PASSWORD}@127.0.0.1:${own.POSTGRES_PORT}/opm`,
    list,
    inspect,
    containersOf: async (service: string) => toLines(await compose('ps', '--all', '--quiet', service)),
    /** Of all containers of the project, by service; where there are several, of one of them. */
    async inspectServices(): Promise<Record<string, Inspected>> {
      const containers = await inspect(await list('container'));
      const toService = ({ Config }: Inspected) => Config.Labels['com.docker.compose.service'] as string;
      return Object.fromEntries(containers.map((container) => [toService(container), container]));
    },
    /** Removes the .env; what the project has on Docker is for the teardown of the run. */
    drop: () => rm(directory, { recursive: true }),
  };
}

/** What the tests read of `docker container inspect`. */
export type Inspected = {
  HostConfig: { Memory: number; PidsLimit: number | null; LogConfig: { Type: string; Config: Record<string, string> } };
  State: {
    Status: string;
    StartedAt: string;
    ExitCode: number;
    OOMKilled: boolean;
    Health?: { Status: string; Log: { ExitCode: number; Start: string }[] };
  };
  Config: { Image: string; Labels: Record<string, string> };
  NetworkSettings: { Ports: Record<string, { HostIp: string; HostPort: string }[] | null> };
};

async function toOwnSettings() {
  const password = () => randomBytes(24).toString('hex');
  const port = async () => String(await findFreePort());
  return {
    POSTGRES_PASSWORD: password(),
    POSTGRES_APP_PASSWORD: password(),
    REDIS_PASSWORD: password(),
    CONSOLE_PASSWORD: password(),
    PORT: await port(),
    CONSOLE_PORT: await port(),
    POSTGRES_PORT: await port(),
    REDIS_PORT: await port(),
    STATEMENT_MAX_ROWS: '999',
  };
}

const toEnvLines = (settings: NodeJS.Dict<string>): string =>
  Object.entries(settings)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');

const toLines = (text: string): string[] => text.split('\n').filter(Boolean);

/** So many, one after the other. */
export async function findFreePorts(count: number): Promise<number[]> {
  for (;;) {
    const first = await findFreePort();
    const ports = Array.from({ length: count }, (_, n) => first + n);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return ports;
  }
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const server = createServer()
      .once('error', () => resolve(false))
      .listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
