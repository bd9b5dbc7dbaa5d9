import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseEnv, promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { waitFor } from '@opm/testkit';
import { readCommands } from './compose-project.js';

const ROOT = join(import.meta.dirname, '../..');
/** Has the docker-compose.yml of the releases whose passwords are in .env. */
const BEFORE = join(import.meta.dirname, 'passwords-in-env');
/** As their `opm migrate --app-role` did, with the password of the .env. */
const GRANT_APP_ROLE = `. ./.env && docker compose exec -T postgres psql --username opm --command "
  CREATE ROLE opm_app LOGIN PASSWORD '$POSTGRES_APP_PASSWORD';
  GRANT CONNECT ON DATABASE opm TO opm_app;
  GRANT USAGE ON SCHEMA public TO opm_app;
  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO opm_app;
  REVOKE UPDATE, DELETE ON audit_log FROM opm_app;
  GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO opm_app;
  ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO opm_app;
  ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO opm_app"`;

const name = `${process.env.OPM_TEST_COMPOSE_RUN}-upgrade`;
let folder: string;
let port: number;

/** @returns its stdout */
async function run(script: string): Promise<string> {
  // Variables of the shell would override the .env.
  const { PATH, HOME, DOCKER_HOST } = process.env;
  const env = { PATH, HOME, DOCKER_HOST, COMPOSE_PROJECT_NAME: name };
  const options = { cwd: folder, env, maxBuffer: 64 * 1024 * 1024 };
  return (await promisify(execFile)('sh', ['-ec', script], options)).stdout;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'opm-upgrade-'));
  port = await findFreePort();
});
afterAll(async () => {
  await run('docker compose down --volumes');
  await rm(folder, { recursive: true });
});

async function send(apiKey: string, method: string, path: string, body?: unknown): Promise<Response> {
  const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
  return fetch(`http://127.0.0.1:${port}${path}`, { method, headers, body: JSON.stringify(body) });
}

const isStored = (apiKey: string, customerId: string) => async () => {
  const { customer, pending } = await (await send(apiKey, 'GET', `/entry/${customerId}`)).json();
  return customer?.customerPhone === '+1' && !pending;
};

test("the commands in docs/upgrade.md move an installation with passwords in .env to secrets/: rows, waiting entries, keys and the console's password stay, and it can go back", async () => {
  await run(`git -C '${ROOT}' ls-files -co --exclude-standard -z | tar c -C '${ROOT}' --null -T - | tar x`);
  await run(`mv docker-compose.yml new.yml && cp '${BEFORE}/docker-compose.yml' .`);
  const ports = { PORT: port, CONSOLE_PORT: await findFreePort() };
  const stores = { POSTGRES_PORT: await findFreePort(), REDIS_PORT: await findFreePort() };
  const passwords = ['POSTGRES', 'POSTGRES_APP', 'REDIS', 'CONSOLE'].map((of) => [`${of}_PASSWORD`, randomUUID()]);
  const settings = { COMPOSE_PROFILES: 'all', IMAGE_TAG: name, ...ports, ...stores, ...Object.fromEntries(passwords) };
  const lines = Object.entries(settings).map(([key, value]) => `${key}=${value}\n`);
  await writeFile(join(folder, '.env'), lines.join(''), { mode: 0o600 });
  await run('docker compose up --wait --build postgres redis && docker compose run --build --rm migrate');
  await run(GRANT_APP_ROLE);
  await run('docker compose up --wait --build');
  const { apiKey } = JSON.parse(await run('docker compose run --rm --no-TTY opm projects create acme --json'));
  expect((await send(apiKey, 'POST', '/entry', { customerId: 'stored', customerPhone: '+1' })).status).toBe(201);
  await waitFor(isStored(apiKey, 'stored'), { description: 'the row', timeoutMs: 60_000 });
  await run('docker compose stop worker');
  expect((await send(apiKey, 'POST', '/entry', { customerId: 'waiting', customerPhone: '+1' })).status).toBe(201);

  const [stop = '', move = ''] = await readCommands('docs/upgrade.md', 'From passwords in .env');
  await run(stop);
  await run('mv docker-compose.yml old.yml && mv new.yml docker-compose.yml');
  await run(move);
  const left = Object.keys(parseEnv(await readFile(join(folder, '.env'), 'utf8')));
  expect(left.filter((variable) => /PASSWORD|URL/.test(variable))).toEqual([]);
  for (const customerId of ['stored', 'waiting'])
    await waitFor(isStored(apiKey, customerId), { description: customerId, timeoutMs: 60_000 });
  const logIn = await fetch(`http://127.0.0.1:${ports.CONSOLE_PORT}/`, {
    headers: { authorization: `Basic ${btoa(`admin:${settings.CONSOLE_PASSWORD}`)}` },
  });
  expect(logIn.status).toBe(200);
  await run('docker compose down && mv old.yml docker-compose.yml && cp -p .env.before .env');
  await run('docker compose up --wait');
  expect((await send(apiKey, 'POST', '/entry', { customerId: 'back', customerPhone: '+1' })).status).toBe(201);
  await waitFor(isStored(apiKey, 'back'), { description: 'the row', timeoutMs: 60_000 });
});
