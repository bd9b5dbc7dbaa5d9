import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';
import { STORE_ENV } from '@opm/runtime';
import { findShellCheck } from '@opm/testkit';
import { parse } from 'yaml';
import { CONSOLE_ENV } from '../apps/console/src/compose.js';
import { INGRESS_ENV } from '../apps/ingress/src/config.js';
import { WORKER_ENV } from '../apps/worker/src/compose.js';

const SPECS = { ingress: INGRESS_ENV, worker: WORKER_ENV, console: CONSOLE_ENV, opm: STORE_ENV, migrate: STORE_ENV };

/** docker-compose.yml and the image decide where a container listens. */
const PLACES = ['HOST', 'PORT', 'CONSOLE_HOST', 'CONSOLE_PORT', 'INTERNAL_HOST', 'INTERNAL_PORT'];
/**
 * Variables that are built from others or required. All others have no value in the file: .env sets them, or they are
 * unset.
 */
const MADE: Record<string, unknown> = {
  DATABASE_URL: expect.stringMatching(/opm_app:\$\{POSTGRES_APP_PASSWORD:/),
  REDIS_URL: expect.stringContaining('REDIS_PASSWORD'),
  CONSOLE_PASSWORD: expect.stringMatching(/^\$\{CONSOLE_PASSWORD:\?.*\}$/),
};

/** The proxies of the ingresses are not those of the console. */
const MADE_FOR_CONSOLE = { TRUSTED_PROXIES: expect.stringMatching(/^\$\{CONSOLE_TRUSTED_PROXIES:-0\}$/) };

/** `migrate` runs as the owner, who creates the role of the apps. */
const MADE_FOR_MIGRATE = {
  DATABASE_URL: expect.stringMatching(/opm:\$\{POSTGRES_PASSWORD:/),
  APP_ROLE_PASSWORD: expect.stringContaining('POSTGRES_APP_PASSWORD'),
};

const { configs, services, volumes } = parse(readFileSync('docker-compose.yml', 'utf8'), { merge: true });

test.each(Object.entries(SPECS))('Docker Compose passes each variable that %s reads from .env', (name, spec) => {
  const passedOn = Object.keys(spec).filter((variable) => !PLACES.includes(variable));
  expect(services[name].environment).toEqual({
    ...Object.fromEntries(passedOn.map((variable) => [variable, MADE[variable] ?? null])),
    ...(name === 'migrate' && MADE_FOR_MIGRATE),
    ...(name === 'console' && MADE_FOR_CONSOLE),
  });
});

test('Prometheus starts only with its profile, at a fixed version, and is published on 127.0.0.1 only', () => {
  const { prometheus } = services;
  expect(prometheus.profiles).toEqual(['observability']);
  expect(prometheus.image).toMatch(/^prom\/prometheus:v\d+\.\d+\.\d+$/);
  expect(prometheus.ports).toEqual([expect.stringMatching(/^127\.0\.0\.1:/)]);
  // The image declares a volume: without a name, each new container would leave one behind.
  expect(prometheus.volumes).toEqual(['./deploy/observability:/etc/prometheus:ro', 'prometheus:/prometheus']);
  expect(volumes).toHaveProperty('prometheus');
});

type Service = { entrypoint?: string[]; command?: string[]; healthcheck?: { test: string[] } };

test('scripts of more than three lines are files in deploy/, where ShellCheck finds no problem', async () => {
  const words = Object.values<Service>(services).flatMap(({ entrypoint, command, healthcheck }) =>
    [entrypoint, command, healthcheck?.test].flatMap((words = []) => words),
  );
  expect(words.filter((word) => word.trim().split('\n').length > 3)).toEqual([]);
  const scripts = readdirSync('deploy').filter((name) => name.endsWith('.sh'));
  const mounted = Object.values<{ file: string }>(configs).map(({ file }) => file);
  expect(scripts.map((name) => `deploy/${name}`)).toEqual(expect.arrayContaining(mounted));
  await promisify(execFile)(await findShellCheck(), ['--shell=sh', ...scripts], { cwd: 'deploy' });
});
