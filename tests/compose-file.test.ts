import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { PROCESS_ENV } from '@opm/runtime';
import { findShellCheck } from '@opm/testkit';
import { parse } from 'yaml';
import { CONSOLE_ENV } from '../apps/console/src/compose.js';
import { INGRESS_ENV } from '../apps/ingress/src/config.js';
import { WORKER_ENV } from '../apps/worker/src/compose.js';

/** The services `opm` and `migrate` share the processes' block, and read only what is about the stores. */
const SPECS = {
  ingress: INGRESS_ENV,
  worker: WORKER_ENV,
  console: CONSOLE_ENV,
  opm: PROCESS_ENV,
  migrate: PROCESS_ENV,
};

/** docker-compose.yml and the image decide where a container listens. */
const PLACES = ['HOST', 'PORT', 'CONSOLE_HOST', 'CONSOLE_PORT', 'INTERNAL_PORT'];
/** Variables that have a value in the file. All others have none: .env sets them, or they are unset. */
const MADE: Record<string, Record<string, unknown>> = {
  ingress: toMade('ingress', 'ingress'),
  worker: toMade('worker', 'worker'),
  console: {
    ...toMade('console', 'console'),
    CONSOLE_PASSWORD_FILE: '/run/secrets/console-password',
    // Its proxies are not those of the ingresses.
    TRUSTED_PROXIES: expect.stringMatching(/^\$\{CONSOLE_TRUSTED_PROXIES:-0\}$/),
  },
  opm: toMade('opm', 'opm'),
  migrate: toMade('owner', 'opm'),
};

function toMade(database: string, redis: string) {
  return {
    DATABASE_URL_FILE: `/run/secrets/${database}-database-url`,
    REDIS_URL_FILE: `/run/secrets/${redis}-redis-url`,
    INTERNAL_HOST: expect.stringMatching(/^\$\{INTERNAL_HOST:-127\.0\.0\.1\}$/),
  };
}

type Service = {
  image: string;
  build?: { args: Record<string, string | null> };
  entrypoint?: string[];
  command?: string[];
  environment?: Record<string, string | null>;
  healthcheck?: { test: string[] };
  secrets?: string[];
  networks?: string[] | Record<string, unknown>;
  network_mode?: string;
  depends_on?: Record<string, unknown>;
  volumes?: string[];
  tmpfs?: string[];
  ports?: string[];
};

const file = parse(readFileSync('docker-compose.yml', 'utf8'), { merge: true, maxAliasCount: 1_000 });
const { configs, networks, volumes } = file;
const services: Record<string, Service> = file.services;
const NODES = [1, 2, 3, 4, 5, 6].map((n) => `redis-node-${n}`);

test.each(Object.entries(SPECS))('Docker Compose passes each variable that %s reads from .env', (name, spec) => {
  const made = MADE[name] as Record<string, unknown>;
  const passedOn = Object.keys(spec).filter((variable) => !PLACES.includes(variable) && !(`${variable}_FILE` in made));
  expect(services[name]?.environment).toEqual({
    ...Object.fromEntries(passedOn.map((variable) => [variable, null])),
    ...made,
  });
});

test.each(Object.entries(services))(
  '%s has no capabilities, no writable root file system, and limits',
  (_name, service) => {
    expect(service).toMatchObject({
      read_only: true,
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
      mem_limit: expect.anything(),
      cpu_quota: expect.anything(),
      pids_limit: 512,
      dns: '127.0.0.1',
    });
    expect(service).not.toHaveProperty('cap_add');
    expect(service).not.toHaveProperty('privileged');
    expect(service.network_mode ?? 'none').toBe('none');
  },
);

test('each image gets its commit from REVISION; without it, the Dockerfile has the value', () => {
  const builds = Object.values(services).flatMap(({ build }) => (build ? [build.args] : []));
  expect(builds).toEqual(['cli', 'ingress', 'worker', 'console'].map((APP) => ({ APP, REVISION: null })));
  expect(readFileSync('Dockerfile', 'utf8')).toMatch(/^ARG REVISION=unknown$/m);
});

/** The user of the other images is root if nothing else is said. */
test('the images of the stores run as a user without rights', () => {
  const users = Object.values<{ image: string; user?: string }>(services as never).flatMap(({ image, user }) =>
    image.startsWith('opm-') ? [] : [`${image.split(':')[0]} ${user}`],
  );
  expect(new Set(users)).toEqual(new Set(['postgres postgres', 'redis redis', 'prom/prometheus nobody']));
});

test('no password is in a command, a health check or a variable: each service reads its own from files', () => {
  const text = readFileSync('docker-compose.yml', 'utf8');
  expect(text).not.toMatch(/\$\{[A-Z_]*(PASSWORD|URL|SECRET|KEY)/);
  // The user `health` has none.
  expect(text.match(/\w+:\/\/\w+:.*@/g)).toEqual(['redis://health:@']);
  const app = (name: string) => [`${name}-database-url`, `${name}-redis-url`];
  const ofRedis = ['redis-users.acl', 'redis-operator-password'];
  expect(Object.fromEntries(Object.entries(services).map(([name, { secrets = [] }]) => [name, secrets]))).toEqual({
    postgres: ['postgres-password'],
    redis: ofRedis,
    ...Object.fromEntries(NODES.map((node) => [node, [...ofRedis, 'redis-replication-password']])),
    'redis-cluster': ['redis-operator-password'],
    roles: [
      'postgres-password',
      ...['owner', 'ingress', 'worker', 'console', 'opm'].map((name) => `${name}-database-url`),
      'backup-password',
    ],
    migrate: ['owner-database-url', 'opm-redis-url'],
    grants: ['postgres-password'],
    opm: app('opm'),
    ingress: app('ingress'),
    worker: app('worker'),
    console: [...app('console'), 'console-password'],
    prometheus: [],
    backup: ['backup-password'],
    restore: [],
  });
});

test('no app shares a network with another one, and only networks of published ports are not internal', () => {
  const internal = { internal: true, driver_opts: { 'com.docker.network.bridge.inhibit_ipv4': 'true' } };
  const published = {
    driver_opts: {
      'com.docker.network.bridge.enable_icc': 'false',
      'com.docker.network.bridge.enable_ip_masquerade': 'false',
    },
  };
  const members = Object.keys(networks).map((network) => {
    const isIn = ({ networks = [] }: Service) =>
      (Array.isArray(networks) ? networks : Object.keys(networks)).includes(network);
    return [network, Object.keys(services).filter((name) => isIn(services[name] as Service))] as const;
  });
  const stores = ['postgres', 'redis', ...NODES];
  expect(Object.fromEntries(members)).toEqual({
    'ingress-stores': [...stores, 'roles', 'migrate', 'grants', 'opm', 'ingress', 'prometheus'],
    'worker-stores': [...stores, 'worker', 'prometheus'],
    'console-stores': [...stores, 'console', 'prometheus', 'backup'],
    'redis-cluster': [...NODES, 'redis-cluster'],
    'published-apps': ['ingress', 'console'],
    'published-stores': ['postgres', 'redis', 'prometheus'],
  });
  for (const [name, network] of Object.entries(networks))
    expect([name, network]).toEqual([name, name.startsWith('published-') ? published : internal]);
  for (const [name, { ports }] of Object.entries(services))
    for (const port of ports ?? []) expect([name, port]).toEqual([name, expect.stringMatching(/^127\.0\.0\.1:/)]);
});

test('the networks of Docker Compose that the guides name exist', () => {
  const guides = readdirSync('docs').filter((name) => name.endsWith('.md'));
  const text = guides.map((name) => readFileSync(join('docs', name), 'utf8')).join('\n');
  const named = [...text.matchAll(/`opm_([\w-]+-(?:stores|apps)|default|redis-cluster)`/g)].map(([, name]) => name);
  expect(named.length).toBeGreaterThan(0);
  expect(named.filter((name) => !((name as string) in networks))).toEqual([]);
});

test("the commands in docs/secrets.md for the backups' password start every service that reads it", () => {
  const guide = readFileSync('docs/secrets.md', 'utf8');
  const [, commands = ''] = /^```sh\nrm secrets\/backup-password\n(.*?)^```$/ms.exec(guide) ?? [];
  const started = (name: string): string[] => [name, ...Object.keys(services[name]?.depends_on ?? {}).flatMap(started)];
  const named = [...commands.matchAll(/^docker compose up (.*)$/gm)].flatMap(([, words = '']) => words.split(' '));
  const readers = Object.keys(services).filter((name) => services[name]?.secrets?.includes('backup-password'));
  expect(readers).toEqual(['roles', 'backup']);
  expect(named.flatMap(started)).toEqual(expect.arrayContaining(readers));
});

test('git ignores the file of passwords that docs/upgrade.md makes', () => {
  const [, copy = ''] = /^cp -p \.env (\S+)$/m.exec(readFileSync('docs/upgrade.md', 'utf8')) ?? [];
  expect(readFileSync('.gitignore', 'utf8').split('\n')).toContain(copy);
});

test('down --volumes leaves nothing behind: what an image declares as a volume has a name or is in memory', () => {
  const declared: Record<string, string> = { postgres: '/var/lib/postgresql/data', redis: '/data' };
  for (const [name, { image, volumes: mounted = [], tmpfs = [] }] of Object.entries(services)) {
    const place = declared[image.split(':')[0] as string];
    const places = [...mounted.map((mount) => mount.split(':')[1]), ...tmpfs.map((mount) => mount.split(':')[0])];
    if (place) expect([name, places]).toEqual([name, expect.arrayContaining([place])]);
  }
});

test('Prometheus starts only with its profile, at a fixed version, and is published on 127.0.0.1 only', () => {
  const prometheus = services.prometheus as Service;
  expect(prometheus).toHaveProperty('profiles', ['observability']);
  expect(prometheus.image).toMatch(/^prom\/prometheus:v\d+\.\d+\.\d+$/);
  expect(prometheus.ports).toEqual([expect.stringMatching(/^127\.0\.0\.1:/)]);
  // The image declares a volume: without a name, each new container would leave one behind.
  expect(prometheus.volumes).toEqual(['./deploy/observability:/etc/prometheus:ro', 'prometheus:/prometheus']);
  expect(volumes).toHaveProperty('prometheus');
});

test('scripts of more than three lines are files in deploy/, where ShellCheck finds no problem', async () => {
  const words = Object.values(services).flatMap(({ entrypoint, command, healthcheck }) =>
    [entrypoint, command, healthcheck?.test].flatMap((words = []) => words),
  );
  expect(words.filter((word) => word.trim().split('\n').length > 3)).toEqual([]);
  const scripts = readdirSync('deploy').filter((name) => name.endsWith('.sh'));
  const mounted = Object.values<{ file: string }>(configs).map(({ file }) => file);
  expect(scripts.map((name) => `deploy/${name}`)).toEqual(
    expect.arrayContaining(mounted.filter((name) => name.endsWith('.sh'))),
  );
  await promisify(execFile)(await findShellCheck(), ['--shell=sh', ...scripts], { cwd: 'deploy' });
});

describe('deploy/upgrade.sh', () => {
  test.each([
    [['postgres', 'redis'], []],
    [
      ['backup', 'postgres', 'prometheus', 'redis'],
      ['compose kill --signal HUP prometheus', 'compose restart backup'],
    ],
  ])('lets those of %j that mount a folder of deploy/ read its new files', async (running, expected) => {
    const folder = mkdtempSync(join(tmpdir(), 'opm-upgrade-'));
    try {
      symlinkSync(resolve('deploy'), join(folder, 'deploy'));
      const docker = `#!/bin/sh
echo "$*" >>'${folder}/log'
case $* in 'compose ps --services') printf '%s\\n' ${running.join(' ')} ;; wait*) echo 0 ;; esac
`;
      writeFileSync(join(folder, 'docker'), docker, { mode: 0o755 });
      const env = { PATH: `${folder}:${process.env.PATH}` };
      await promisify(execFile)('sh', [join(folder, 'deploy/upgrade.sh')], { env });
      const log = readFileSync(join(folder, 'log'), 'utf8').trim().split('\n');
      expect(log.filter((line) => /prometheus|backup/.test(line))).toEqual(expected);
      expect(log.at(-1)).toBe('compose up --wait');
      expect(existsSync(join(folder, 'secrets'))).toBe(true);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('deploy/create-secrets.sh', () => {
  let folder: string;
  const run = async (...args: string[]) =>
    (await promisify(execFile)('sh', [join(folder, 'deploy/create-secrets.sh'), ...args])).stdout;
  const read = () => {
    const names = readdirSync(join(folder, 'secrets'));
    return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, 'secrets', name), 'utf8')]));
  };
  const mode = (name: string) => (statSync(join(folder, name)).mode & 0o777).toString(8);

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'opm-secrets-'));
    symlinkSync(resolve('deploy'), join(folder, 'deploy'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('makes all secrets of docker-compose.yml, readable in a folder that only its owner can enter', async () => {
    const printed = await run();
    const secrets = read();
    const files = Object.values<{ file: string }>(file.secrets).map(({ file }) => file);
    expect(Object.keys(secrets).map((name) => `secrets/${name}`)).toEqual(files.sort());
    expect(printed.trim().split('\n').sort()).toEqual(files);
    expect(mode('secrets')).toBe('700');
    expect(files.map(mode)).toEqual(files.map(() => '644'));
    expect(secrets['opm-database-url']).toMatch(/^postgresql:\/\/opm_cli:[0-9a-f]{48}@postgres:5432\/opm$/);
    expect(secrets['worker-redis-url']).toMatch(/^redis:\/\/worker:[0-9a-f]{48}@redis:6379$/);
    expect(secrets['redis-users.acl']).not.toMatch(/SHA256|^#/m);
  });

  test('changes nothing the second time, and makes anew what was deleted', async () => {
    await run();
    const first = read();
    expect(await run()).toBe('');
    expect(read()).toEqual(first);
    rmSync(join(folder, 'secrets/worker-redis-url'));
    expect(await run()).toBe('secrets/worker-redis-url\nsecrets/redis-users.acl\n');
    const { 'worker-redis-url': url, 'redis-users.acl': acl, ...others } = read();
    expect(first).toMatchObject(others);
    expect(url).not.toBe(first['worker-redis-url']);
    expect(acl).toContain(
      createHash('sha256')
        .update(new URL(String(url)).password)
        .digest('hex'),
    );
  });

  test('takes over the passwords that stores and operators know from an .env, and says what to delete there', async () => {
    const lines = ['POSTGRES_PASSWORD=old', 'CONSOLE_PASSWORD="with space"', 'REDIS_PREFIX=mine', 'REDIS_PASSWORD=r'];
    writeFileSync(join(folder, '.env'), `${lines.join('\n')}\n`);
    expect(await run()).toContain('Delete from .env');
    const secrets = read();
    expect(secrets).toMatchObject({ 'postgres-password': 'old', 'console-password': 'with space' });
    expect(secrets['redis-users.acl']).toContain('~{mine-[0-9]*}:*');
    expect(secrets['redis-users.acl']).not.toContain('{opm-');
  });

  test.each([
    ...['export POSTGRES_PASSWORD=old', 'POSTGRES_PASSWORD = old', ' POSTGRES_PASSWORD=old', 'POSTGRES_PASSWORD=old\r'],
    ...['POSTGRES_PASSWORD=old # mine', 'POSTGRES_PASSWORD=a$$b', `POSTGRES_PASSWORD="it's"`, 'REDIS_PREFIX=a&b'],
  ])('makes no other password if it cannot read one in .env: %j', async (line) => {
    writeFileSync(join(folder, '.env'), `${line}\n`);
    await expect(run()).rejects.toMatchObject({
      stderr: expect.stringMatching(/^\.env: .*(POSTGRES_PASSWORD|REDIS_PREFIX)/),
    });
    expect(Object.keys(read())).not.toContain(line.includes('PREFIX') ? 'redis-users.acl' : 'postgres-password');
  });

  test('mends the modes of files that a run before did not end with', async () => {
    await run();
    chmodSync(join(folder, 'secrets/postgres-password'), 0o600);
    expect(await run()).toBe('');
    expect(mode('secrets/postgres-password')).toBe('644');
  });

  test('--cluster names the nodes with the same passwords, and later runs keep to them', async () => {
    await run();
    const { password } = new URL(String(read()['ingress-redis-url']));
    await run('--cluster');
    const nodes = ['1', '2', '3'].map((n) => `redis://ingress:${password}@redis-node-${n}:6379`).join(',');
    const clustered = read();
    expect(clustered['ingress-redis-url']).toBe(nodes);
    rmSync(join(folder, 'secrets/opm-redis-url'));
    await run();
    expect(read()['opm-redis-url']).toMatch(/@redis-node-1:6379,/);
    expect(read()).toMatchObject({
      'ingress-redis-url': nodes,
      'redis-operator-password': clustered['redis-operator-password'],
    });
  });
});
