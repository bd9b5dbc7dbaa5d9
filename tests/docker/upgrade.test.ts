import { execFile } from 'node:child_process';
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseEnv, promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { waitFor } from '@opm/testkit';
import { readCommands } from './compose-project.js';

/** The last commit whose passwords are in .env. */
const BEFORE = 'afd7b01';
const ROOT = join(import.meta.dirname, '../..');
const INSTALL = `install -m 600 .env.example .env
for name in POSTGRES POSTGRES_APP REDIS CONSOLE; do echo "\${name}_PASSWORD=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \\n')" >>.env; done`;

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
  await run(`git -C '${ROOT}' archive ${BEFORE} | tar x`);
  await run(INSTALL);
  const ports = { PORT: port, CONSOLE_PORT: await findFreePort() };
  const stores = { POSTGRES_PORT: await findFreePort(), REDIS_PORT: await findFreePort() };
  const settings = Object.entries({ ...ports, ...stores, IMAGE_TAG: `${name}-before` });
  await appendFile(join(folder, '.env'), settings.map(([key, value]) => `${key}=${value}\n`).join(''));
  const { CONSOLE_PASSWORD } = parseEnv(await readFile(join(folder, '.env'), 'utf8'));
  await run('docker compose up --wait --build');
  const { apiKey } = JSON.parse(await run('docker compose run --rm --no-TTY opm projects create acme --json'));
  expect((await send(apiKey, 'POST', '/entry', { customerId: 'stored', customerPhone: '+1' })).status).toBe(201);
  await waitFor(isStored(apiKey, 'stored'), { description: 'the row', timeoutMs: 60_000 });
  await run('docker compose stop worker');
  expect((await send(apiKey, 'POST', '/entry', { customerId: 'waiting', customerPhone: '+1' })).status).toBe(201);

  const [stop = '', move = ''] = await readCommands('docs/upgrade.md', 'From passwords in .env');
  await run(stop);
  await run(`git -C '${ROOT}' ls-files -co --exclude-standard -z | tar c -C '${ROOT}' --null -T - | tar x`);
  await appendFile(join(folder, '.env'), `IMAGE_TAG=${name}\n`);
  await run(move);
  expect(await readFile(join(folder, '.env'), 'utf8')).not.toMatch(/PASSWORD=|REDIS_URL=redis/);
  for (const customerId of ['stored', 'waiting'])
    await waitFor(isStored(apiKey, customerId), { description: customerId, timeoutMs: 60_000 });
  const logIn = await fetch(`http://127.0.0.1:${ports.CONSOLE_PORT}/`, {
    headers: { authorization: `Basic ${btoa(`admin:${CONSOLE_PASSWORD}`)}` },
  });
  expect(logIn.status).toBe(200);
  // `migrate` of the release before must find nothing to do, so this takes its images as they are.
  await run(`docker compose down && git -C '${ROOT}' archive ${BEFORE} | tar x && cp -p .env.before .env`);
  await run('docker compose up --wait');
  expect((await send(apiKey, 'POST', '/entry', { customerId: 'back', customerPhone: '+1' })).status).toBe(201);
  await waitFor(isStored(apiKey, 'back'), { description: 'the row', timeoutMs: 60_000 });
});
