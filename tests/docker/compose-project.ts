import { execFile } from 'node:child_process';
import { appendFile, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseEnv, promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export type ComposeProject = Awaited<ReturnType<typeof createComposeProject>>;

/**
 * Creates a project of the repository's docker-compose.yml, with an .env and secrets as in docs/deploy.md plus these
 * settings, on free ports. The project has its own image tags: if two projects share a tag, Compose recreates the
 * containers of one project, and all that depend on them, when the other one builds the image.
 */
export async function createComposeProject(purpose: string, settings: NodeJS.Dict<string> = {}) {
  const run = process.env.OPM_TEST_COMPOSE_RUN as string;
  const name = `${run}-${purpose}`;
  const directory = await mkdtemp(join(tmpdir(), 'opm-compose-'));
  await symlink(join(ROOT, 'deploy'), join(directory, 'deploy')); // Needed by the commands of the guides.
  const envFile = join(directory, '.env');
  const own = { IMAGE_TAG: name, ...(await toOwnSettings()), ...settings };
  const files = [join(ROOT, 'docker-compose.yml'), join(directory, 'secrets.yml')];
  const example = await readFile(join(ROOT, '.env.example'), 'utf8');
  await writeFile(envFile, example + toEnvLines(own));
  // Variables of the shell would override the file.
  const written = parseEnv(await readFile(envFile, 'utf8'));
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !(key in written)));

  /** @returns its stdout; rejects with its stderr */
  const docker = async (...args: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)('docker', args, { cwd: ROOT, env, maxBuffer: 64 * 1024 * 1024 });
    return stdout.trim();
  };
  const chosen = {
    COMPOSE_PROJECT_NAME: name,
    COMPOSE_ENV_FILES: envFile,
    COMPOSE_FILE: files.join(delimiter),
  };
  /** Runs commands of a guide outside the repository, so that they write no files into it. */
  const runScript = async (script: string): Promise<void> => {
    await promisify(execFile)('sh', ['-ec', script], { cwd: directory, env: { ...env, ...chosen } });
  };
  await runScript('deploy/create-secrets.sh');
  const secrets = join(directory, 'secrets');
  await writeFile(join(directory, 'secrets.yml'), await toSecretsFile(secrets));

  const place = ['--project-name', name, ...files.flatMap((file) => ['--file', file]), '--env-file', envFile];
  const compose = (...args: string[]) => docker('compose', ...place, '--progress', 'plain', ...args);
  /** Ids, including those of exited containers. */
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
    /** Changes settings in the .env for later commands. */
    change: (settings: Record<string, string>) => appendFile(envFile, toEnvLines(settings)),
    run: runScript,
    /** The passwords, by the name of their file. */
    readSecrets: () => readSecrets(secrets),
    url: `http://127.0.0.1:${own.PORT}`,
    ports: { ingress: own.PORT, console: own.CONSOLE_PORT, postgres: own.POSTGRES_PORT, redis: own.REDIS_PORT },
    /** Of the superuser. */
    databaseUrl: `postgresql://opm:${(await readSecrets(secrets))['postgres-password']}@127.0.0.1:${own.POSTGRES_PORT}/opm`,
    list,
    inspect,
    containersOf: async (service: string) => toLines(await compose('ps', '--all', '--quiet', service)),
    /** One container per service, by service. */
    async inspectServices(): Promise<Record<string, Inspected>> {
      const containers = await inspect(await list('container'));
      const toService = ({ Config }: Inspected) => Config.Labels['com.docker.compose.service'] as string;
      return Object.fromEntries(containers.map((container) => [toService(container), container]));
    },
    /** Removes the .env. The teardown of the run removes what the project has in Docker. */
    drop: () => rm(directory, { recursive: true }),
  };
}

/** The parts of `docker container inspect` that tests read. */
export type Inspected = {
  Id: string;
  HostConfig: {
    Memory: number;
    CpuQuota: number;
    PidsLimit: number | null;
    LogConfig: { Type: string; Config: Record<string, string> };
  };
  State: {
    Status: string;
    StartedAt: string;
    ExitCode: number;
    OOMKilled: boolean;
    Health?: { Status: string; Log: { ExitCode: number; Start: string }[] };
  };
  Config: { Image: string; Labels: Record<string, string> };
  Mounts: { Type: string; Name?: string }[];
  NetworkSettings: {
    Ports: Record<string, { HostIp: string; HostPort: string }[] | null>;
    Networks: Record<string, { IPAddress: string }>;
  };
};

async function toOwnSettings() {
  const port = async () => String(await findFreePort());
  return {
    PORT: await port(),
    CONSOLE_PORT: await port(),
    POSTGRES_PORT: await port(),
    REDIS_PORT: await port(),
    STATEMENT_MAX_ROWS: '999',
  };
}

async function readSecrets(directory: string): Promise<Record<string, string>> {
  const names = await readdir(directory);
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(directory, name), 'utf8')])),
  );
}

/** docker-compose.yml looks for the secrets beside itself. */
async function toSecretsFile(directory: string): Promise<string> {
  const names = await readdir(directory);
  return JSON.stringify({ secrets: Object.fromEntries(names.map((name) => [name, { file: join(directory, name) }])) });
}

const toEnvLines = (settings: NodeJS.Dict<string>): string =>
  Object.entries(settings)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');

const toLines = (text: string): string[] => text.split('\n').filter(Boolean);

/** Finds this many consecutive free ports. */
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

/** Returns the blocks of commands below a heading of a guide. */
export async function readCommands(guide: string, heading: string): Promise<string[]> {
  const text = await readFile(join(ROOT, guide), 'utf8');
  // A guide's title may be the same.
  const section = text.split(new RegExp(`^## ${heading}\n`, 'm'))[1] ?? '';
  const [own = ''] = section.split(/^#/m);
  return [...own.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, commands = '']) => commands);
}
