import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { findChildren, isRunning, runOpm, startProcess, type TestProcess, waitFor } from '@opm/testkit';

const ROOT = join(import.meta.dirname, '../..');
const OPM = join(ROOT, 'apps/cli/bin/opm.js');
// As on a new user's machine: no servers are configured.
const env = { DATABASE_URL: '', REDIS_URL: '', CONSOLE_PASSWORD: '', OPM_URL: '', OPM_KEY: '' };

let cwd: string;
let port: number;
let consolePort: number;
let stack: TestProcess | undefined;
/**
 * Hold the usual internal ports, so that a stack draws others: the tests of another checkout may start a stack at the
 * same moment, and both would find the usual ones free.
 */
let holders: Server[];

beforeAll(async () => {
  holders = await Promise.all([9400, 9401, 9402].map(hold));
  cwd = await mkdtemp(join(tmpdir(), 'opm-up-'));
  await drawPorts();
});
afterAll(async () => {
  await stack?.stop();
  for (const holder of holders) if (holder.listening) holder.close();
  await rm(cwd, { recursive: true, force: true });
});

/** Listens on the port, unless another program does. */
async function hold(usual: number): Promise<Server> {
  const server = createServer();
  await Promise.race([once(server.listen(usual, '127.0.0.1'), 'listening'), once(server, 'error')]).catch(() => {});
  return server;
}

/** Draws new ports for each test: a port that was free at the start of the file may be in use by now. */
const drawPorts = async () => {
  [port, consolePort] = [await findFreePort(), await findFreePort()];
};

const up = () =>
  startProcess({
    file: OPM,
    args: ['up', '--port', String(port), '--console-port', String(consolePort)],
    cwd,
    env,
    readyOutput: /npx opm customers get demo 7519/,
  });

/** Runs a command in the directory of the stack. */
const opm = (...args: string[]) => runOpm(args, env, { cwd });
const opmJson = async (...args: string[]) => JSON.parse((await opm(...args, '--json')).stdout);

/** Sends the entry of the printed curl command; returns the status. */
const sendPrintedEntry = async (output: string): Promise<number> => {
  const [, url = ''] = /curl -i (\S+)/.exec(output) ?? [];
  const [, apiKey = ''] = /x-api-key: (opm_\w+)/.exec(output) ?? [];
  const [, body = ''] = /-d '(.+)'/.exec(output) ?? [];
  return (await fetch(url, { method: 'POST', body, headers: { 'x-api-key': apiKey } })).status;
};

test('opm --version prints its version', async () => {
  expect(await opm('--version')).toEqual({ code: 0, stdout: '0.1.0\n', stderr: '' });
});

test('without a stack, a command says so in one line', async () => {
  expect(await opm('customers', 'get', 'demo', '1')).toEqual({
    code: 4,
    stdout: '',
    stderr:
      'opm: no stack is running in .data and DATABASE_URL is not set: run `npm start`, set DATABASE_URL, or set ' +
      'OPM_DATA_DIR to the data folder of a running stack\n',
  });
});

test('a port in use gives one clear line, and nothing starts', async () => {
  const server = createServer();
  await new Promise<void>((listening) => {
    server.listen(port, '127.0.0.1', listening);
  });
  const result = await opm('up', '--port', String(port), '--console-port', String(consolePort));
  await new Promise((closed) => server.close(closed));
  expect(result).toEqual({
    code: 1,
    stdout: '',
    stderr: `opm: port ${port} is taken by another program; choose another one with --port\n`,
  });
});

test('an option that cannot work gives one clear line too', async () => {
  const args = ['up', '--port', String(port), '--console-port'];
  expect((await opm(...args, String(port))).stderr).toBe(
    `opm: --port and --console-port must differ, both are ${port}\n`,
  );
  expect((await opm('up', '--host', '')).stderr).toMatch(/option '--host <address>' .* It must not be empty/);
  const onFile = await opm(...args, String(consolePort), '--data-dir', OPM);
  expect(onFile.stderr).toMatch(/^opm: --data-dir .* cannot be used: EEXIST.*\n$/);
  expect(onFile.stdout).toBe('');
});

test.each(['starting PostgreSQL', 'migrating the database'])('Ctrl-C while %s shuts down in order', async (doing) => {
  const dataDir = await mkdtemp(join(cwd, 'ended-'));
  await drawPorts();
  const args = ['up', '--port', String(port), '--console-port', String(consolePort), '--data-dir', dataDir];
  const starting = await startProcess({ file: OPM, args, cwd, env, detached: true });
  await waitFor(() => starting.output().includes(doing), { description: 'the start' });
  process.kill(-starting.pid, 'SIGINT'); // Like a terminal, signals all processes of the group.
  expect(await starting.exited).toEqual({ code: 0, signal: null });
  expect(starting.output()).toMatch(/opm: stopped\n$/);
  expect(starting.output()).not.toMatch(/failed|could not|cannot|did not|Error/);
});

test('if two stacks start in a folder at the same time, one takes it and the other says so', async () => {
  const dataDir = await mkdtemp(join(cwd, 'claimed-'));
  await writeFile(join(dataDir, 'stack.json'), '{"pid":1}'); // The file of a killed stack.
  const start = async () => {
    const ports = ['--port', String(await findFreePort()), '--console-port', String(await findFreePort())];
    return startProcess({ file: OPM, args: ['up', ...ports, '--data-dir', dataDir], cwd, env, detached: true });
  };
  const both = await Promise.all([start(), start()]);
  const refused = await Promise.race(both.map(async (it) => ({ it, exit: await it.exited })));
  expect(refused.exit).toEqual({ code: 1, signal: null });
  expect(refused.it.output()).toMatch(/^opm: a stack is already running in .* \(process \d+\)/);
  const taken = both.find((it) => it !== refused.it);
  await waitFor(() => taken?.output().includes('starting PostgreSQL'), { description: 'the other one' });
  expect(await taken?.stop('SIGINT')).toEqual({ code: 0, signal: null });
});

test('a stack file whose process id now belongs to another program is ignored', async () => {
  await mkdir(join(cwd, '.data'), { recursive: true });
  await writeFile(
    join(cwd, '.data/stack.json'),
    JSON.stringify({ pid: process.pid, databaseUrl: 'postgresql://none' }),
  );
  expect((await opm('projects', 'list')).stderr).toMatch(/^opm: no stack is running/);
});

async function findDescendants(pid: number): Promise<number[]> {
  const children = await findChildren(pid);
  return [...children, ...(await Promise.all(children.map(findDescendants))).flat()];
}

test('SIGTERM to npm start stops the stack in order and leaves no process behind', async () => {
  await drawPorts();
  const dataDir = await mkdtemp(join(cwd, 'npm-'));
  const args = ['start', '--', '--port', String(port), '--console-port', String(consolePort), '--data-dir', dataDir];
  const npm = spawn('npm', args, { cwd: ROOT, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  npm.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  let started: number[] = [];
  try {
    const isUp = () => output.includes('OPM Partners API is running');
    await waitFor(isUp, { description: 'the stack to run', timeoutMs: 600_000 });
    const [postgres = ''] = (await readFile(join(dataDir, 'postgres/cluster/postmaster.pid'), 'utf8')).split('\n');
    started = [...(await findDescendants(npm.pid as number)), Number(postgres)];
    expect(started.length).toBeGreaterThanOrEqual(5); // `opm up`, three apps and PostgreSQL.
    npm.kill('SIGTERM');
    const isEveryoneGone = async () => !(await Promise.all(started.map(isRunning))).includes(true);
    await waitFor(isEveryoneGone, { description: 'all processes to end' });
    expect(output).toMatch(/opm: stopped\n$/);
  } finally {
    const left = new Set([...started, ...(await findDescendants(npm.pid as number))]);
    for (const pid of left) killIfRunning(pid);
    npm.kill('SIGKILL');
  }
});

function killIfRunning(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

const STACK_TRACE = /^\s+at /m;

test('opm up: the printed commands work, a restart keeps everything, and no process is left behind', async () => {
  await drawPorts();
  stack = await up();
  expect(await sendPrintedEntry(stack.output())).toBe(201);
  expect(await sendPrintedEntry(stack.output())).toBe(202);
  const row = await waitFor(async () => opmJson('customers', 'get', 'demo', '7519'), { description: 'the row' });
  expect(row).toMatchObject({ customerId: '7519', email: 'jane@example.com', firstName: 'Jane', phone: null });

  const password = /password (\S+)/.exec(stack.output())?.[1];
  const dashboard = `http://127.0.0.1:${consolePort}/`;
  expect((await fetch(dashboard)).status).toBe(401);
  const authorization = `Basic ${Buffer.from(`me:${password}`).toString('base64')}`;
  expect((await fetch(dashboard, { headers: { authorization } })).status).toBe(200);

  expect(await opm('up', '--port', String(port))).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^opm: a stack is already running in .* \(process \d+\)/),
  });
  expect((await opm('operators', 'add', 'ada', '--role', 'admin')).code).toBe(0);
  expect(await stack.stop('SIGINT')).toEqual({ code: 0, signal: null });
  expect(stack.output()).not.toMatch(STACK_TRACE);

  const again = await up();
  stack = again;
  expect(again.output()).toContain('log in as an operator, see: npx opm operators list');
  expect(again.output()).not.toContain(password);
  expect(again.output()).not.toMatch(STACK_TRACE);
  expect(await sendPrintedEntry(again.output())).toBe(202);
  expect(await opmJson('customers', 'get', 'demo', '7519')).toMatchObject({ createdAt: row.createdAt });
  const apps = await findChildren(again.pid);
  await again.stop('SIGKILL');
  // The apps exit by themselves, and the next start takes over the database that is still running.
  const isEveryAppGone = async () => !(await Promise.all(apps.map(isRunning))).includes(true);
  await waitFor(isEveryAppGone, { description: 'the end of its processes' });
  await expect(fetch(`http://127.0.0.1:${port}/ping`)).rejects.toThrow('fetch failed');
  stack = await up();
  expect(await sendPrintedEntry(stack.output())).toBe(202);
});

test('a burst needs neither address nor key if a stack runs', async () => {
  const result = await opmJson('burst', '--entries', '300', '--batch', '10');
  expect(result).toMatchObject({ url: `http://127.0.0.1:${port}`, sent: 300, unanswered: 0, stored: { missing: [] } });
  expect(result.accepted + result.refused).toBe(300);
  expect(await opmJson('customers', 'get', 'demo', result.customerId)).toMatchObject({ firstName: 'First' });
});

test('projects and keys are created, listed, rotated and revoked', async () => {
  const created = await opmJson('projects', 'create', 'acme');
  expect(created).toEqual({ projectId: 2, name: 'acme', apiKey: expect.stringMatching(/^opm_\w{36}$/) });
  expect(await opm('projects', 'create', 'acme')).toMatchObject({
    code: 1,
    stderr: 'opm: a project named "acme" already exists\n',
  });
  const { apiKey } = await opmJson('keys', 'rotate', 'acme', '--grace', '1h');
  const ping = (key: string) =>
    fetch(`http://127.0.0.1:${port}/ping`, { headers: { 'x-api-key': key } }).then(({ status }) => status);
  expect([await ping(created.apiKey), await ping(apiKey)]).toEqual([200, 200]);
  const keys = await opmJson('keys', 'list', 'acme');
  expect(keys).toMatchObject([{ status: 'active', hint: created.apiKey.slice(0, 10) }, { status: 'active' }]);
  expect(await opmJson('keys', 'revoke', 'acme', '--key', String(keys[0].keyId))).toEqual({ revoked: 1 });
  await waitFor(async () => (await ping(created.apiKey)) === 401, { description: 'the revoked key to end' });
  expect(await ping(apiKey)).toBe(200);
  expect((await opm('keys', 'list', 'nobody')).stderr).toMatch(/^opm: there is no project "nobody"/);
  for (const grace of ['soon', '24', '', '-1h', '9000y']) {
    expect((await opm('keys', 'rotate', 'acme', '--grace', grace)).stderr).toMatch(
      /It must be a duration with its unit/,
    );
  }
  expect(await opmJson('migrate')).toEqual({ upToDate: true });
  expect(await opmJson('dead-letters', 'list', '--project', 'acme')).toEqual([]);
  expect((await opm('dead-letters', 'show', '1')).stderr).toMatch(/^opm: there is no dead letter 1/);
});

test('a project gets a limit and loses it again, and the list says so', async () => {
  const { projectId, apiKey } = await opmJson('projects', 'create', 'limited');
  const post = async () => {
    const body = '{"customerId":1,"customerPhone":"+1"}';
    const url = `http://127.0.0.1:${port}/entry`;
    return (await fetch(url, { method: 'POST', headers: { 'x-api-key': apiKey }, body })).status;
  };
  const limits = (...options: string[]) => opmJson('projects', 'limits', 'limited', ...options);
  const project = { projectId, name: 'limited' };
  expect(await limits('--rate', '1', '--burst', '2')).toEqual({ ...project, rate: 1, burst: 2 });
  expect(await limits()).toEqual({ ...project, rate: 1, burst: 2 });
  expect((await opm('projects', 'limits', 'limited')).stdout).toBe(
    'Project limited may send 1 entry per second, with a burst of 2.\n',
  );
  expect(await opmJson('projects', 'list')).toContainEqual({ ...project, rate: 1, burst: 2, pausedAt: null });
  await waitFor(async () => (await post()) === 429, { description: 'the limit to be in force' });
  expect(await limits('--none')).toEqual({ ...project, rate: null, burst: null });
  expect((await opm('projects', 'list')).stdout).toMatch(/limited +- +- +-$/m);
  await waitFor(async () => (await post()) === 202, { description: 'the limit to be gone' });

  for (const options of [
    ['--rate', '1'],
    ['--burst', '1'],
    ['--none', '--rate', '1', '--burst', '1'],
  ]) {
    expect((await opm('projects', 'limits', 'limited', ...options)).stderr).toBe(
      'opm: specify both --rate and --burst, or only --none\n',
    );
  }
  expect((await opm('projects', 'limits', 'limited', '--rate', '0', '--burst', '1')).stderr).toBe(
    'opm: rate and burst must be whole numbers from 1 to 1000000\n',
  );
  expect((await opm('projects', 'limits', 'limited', '--rate', '-1', '--burst', '1')).stderr).toMatch(
    /It must be a whole number/,
  );
});
