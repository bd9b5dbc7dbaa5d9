import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { migrateQueue } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import {
  type Backend,
  createBackend,
  query,
  runOpm,
  startApp,
  startProcess,
  type TestApp,
  waitFor,
} from '@opm/testkit';
import pg from 'pg';
import { type PgBouncer, startPgBouncer } from './start-pgbouncer.js';

const POOL_SIZE = 3;
const LOCK_TIMEOUT_MS = 5_000;

let directory: string;
let ini: string;
let backend: Backend;
let store: Store;
let pgbouncer: PgBouncer;
let env: NodeJS.ProcessEnv;
let ingresses: TestApp[] = [];
let workers: TestApp[] = [];
let projectId: number;
let apiKey: string;

const start = (port?: number) =>
  startPgBouncer({
    directory,
    databaseUrl: backend.databaseUrl,
    ini,
    settings: { default_pool_size: POOL_SIZE },
    ...(port && { port }),
  });

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-pgbouncer-'));
  await chmod(directory, 0o755);
  const guide = await readFile('docs/postgresql.md', 'utf8');
  ini = /```ini\n([^`]+)```/.exec(guide)?.[1] ?? '';
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  pgbouncer = await start();
  env = { ...backend.env, DATABASE_URL: pgbouncer.url };
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  const created = await runOpm(['projects', 'create', 'acme', '--json'], env);
  expect(created).toMatchObject({ code: 0, stderr: '' });
  ({ projectId, apiKey } = JSON.parse(created.stdout));
  const startAll = (name: 'ingress' | 'worker', n: number) =>
    Promise.all(Array.from({ length: n }, () => startApp(name, env)));
  [ingresses, workers] = await Promise.all([startAll('ingress', 2), startAll('worker', 3)]);
});
afterAll(async () => {
  const exits = await Promise.all([...ingresses, ...workers].map((app) => app.stop()));
  await pgbouncer.stop('SIGINT');
  await store.close();
  await backend.drop();
  await rm(directory, { recursive: true });
  expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
});

let turn = 0;
async function call(method: string, path: string, body?: object): Promise<{ status: number; body: never }> {
  const url = ingresses[turn++ % ingresses.length]?.url;
  const response = await fetch(`${url}${path}`, {
    method,
    headers: { 'x-api-key': apiKey },
    ...(body && { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as never };
}

let refusals = 0;
/** Retries while the answer is 503, as a partner does: on a busy machine an ingress may miss its deadlines. */
async function callUntilAccepted(method: string, path: string, body?: object): Promise<number> {
  const attempt = async () => {
    const { status } = await call(method, path, body);
    if (status === 503) refusals++;
    return status !== 503 && status;
  };
  return waitFor(attempt, { description: `${method} ${path} to be accepted` });
}

/**
 * Sends three requests with four entries of one customer, in order. The last request erases every third customer.
 * @returns the statuses
 */
async function runCustomer(customerId: string): Promise<number[]> {
  const last = Number(/\d+$/.exec(customerId)?.[0]) % 3 === 0;
  return [
    await callUntilAccepted('POST', '/entry', { customerId, customerEmail: `${customerId}@example.com` }),
    await callUntilAccepted('POST', '/entries', [
      { customerId, customerPhone: '+1' },
      { customerId, customerFirstName: 'Jäne', customerPhone: '+2' },
    ]),
    last
      ? await callUntilAccepted('DELETE', `/entry/${customerId}`)
      : await callUntilAccepted('POST', '/entry', { customerId, customerPhone: '+3' }),
  ];
}

/**
 * Sends customers, 20 at a time, until `isOver`.
 * @returns the statuses of each customer
 */
async function runCustomers(name: string, isOver: (n: number) => boolean): Promise<Map<string, number[]>> {
  const lives = new Map<string, number[]>();
  let next = 0;
  const client = async () => {
    while (!isOver(next)) {
      const customerId = `${name}-${next++}`;
      lives.set(customerId, await runCustomer(customerId));
    }
  };
  await Promise.all(Array.from({ length: 20 }, client));
  return lives;
}

/** Without PostgreSQL an ingress cannot look up a customer, so a first entry may get 202 instead of 201. */
function expectAnswers(lives: Map<string, number[]>): void {
  for (const [customerId, [first, ...others]] of lives) {
    expect([201, 202]).toContain(first);
    expect([customerId, ...others]).toEqual([customerId, 207, 202]);
  }
}

async function expectRows(customerIds: Iterable<string>): Promise<void> {
  for (const customerId of customerIds) {
    const isErased = Number(/\d+$/.exec(customerId)?.[0]) % 3 === 0;
    const expected = { email: `${customerId}@example.com`, firstName: 'Jäne', phone: '+3' };
    const isStored = async () => {
      const row = await store.customers.find(projectId, customerId);
      // Jobs may finish in any order: a job whose attempt failed finishes later.
      return isErased ? row === undefined : row?.phone === '+3' && row.firstName && row.email && row;
    };
    const row = await waitFor(isStored, { description: `the row of ${customerId}` });
    if (!isErased) expect(row).toMatchObject(expected);
  }
}

test('many processes share three sessions of PostgreSQL: every entry, update and erasure has the right result', async () => {
  const lives = await runCustomers('steady', (n) => n >= 300);
  expectAnswers(lives);
  // An ingress counts look-ups that were too late, on a busy machine.
  const unsure = await Promise.all(ingresses.map(({ readMetric }) => readMetric('opm_existence_unknown_total')));
  const notCreated = [...lives.values()].filter(([first]) => first !== 201);
  expect(notCreated.length).toBeLessThanOrEqual(unsure.reduce((sum, n) => sum + n, refusals));
  await expectRows(lives.keys());
  const sessions = await query<{ n: number }>(
    backend.databaseUrl,
    `SELECT count(*)::int AS n FROM pg_stat_activity
     WHERE datname = current_database() AND application_name IN ('opm-ingress', 'opm-worker', 'opm-cli')`,
  );
  expect(sessions[0]?.n).toBeLessThanOrEqual(POOL_SIZE);
  expect(await call('GET', '/entry/steady-1')).toMatchObject({
    status: 200,
    body: { customer: { customerId: 'steady-1', customerFirstName: 'Jäne', customerPhone: '+3' }, pending: false },
  });
  expect((await call('GET', '/entry/steady-0')).status).toBe(404);
});

test('PgBouncer accepts far more connections than PostgreSQL would', async () => {
  const clients = Array.from({ length: 150 }, () => new pg.Client(pgbouncer.url));
  await Promise.all(clients.map((client) => client.connect()));
  const answers = await Promise.all(clients.map((client) => client.query('SELECT 1 AS one')));
  expect(answers.every(({ rows }) => rows[0].one === 1)).toBe(true);
  await Promise.all(clients.map((client) => client.end()));
});

test.each(['SIGKILL', 'SIGINT'] as const)(
  'PgBouncer ends with %s under load and comes back: every entry is accepted, and in its row',
  async (signal) => {
    let isBack = false;
    let done = 0;
    const lives = runCustomers(`away-${signal}`, (n) => {
      done = n;
      return isBack;
    });
    const after = (count: number) => waitFor(() => done >= count, { description: 'load' });
    await after(50);
    await pgbouncer.stop(signal);
    await after(done + 50);
    pgbouncer = await start(pgbouncer.port);
    await after(done + 100);
    isBack = true;

    expectAnswers(await lives);
    await expectRows((await lives).keys());
    expect(await store.deadLetters.count({})).toEqual([]);
  },
);

test('the command line works through PgBouncer', async () => {
  const opm = async (...args: string[]) => {
    const { code, stdout, stderr } = await runOpm(args, env);
    expect([stderr.replace(/.*\r/gs, ''), code]).toEqual(['', 0]);
    return stdout;
  };
  await opm('projects', 'create', 'another');
  expect(await opm('projects', 'list')).toContain('another');
  await opm('projects', 'limits', 'another', '--rate', '100', '--burst', '1000');
  expect(JSON.parse(await opm('keys', 'rotate', 'another', '--json'))).toHaveProperty('apiKey');
  await opm('keys', 'revoke', 'another');
  expect(JSON.parse(await opm('customers', 'get', 'acme', 'steady-1', '--json'))).toMatchObject({ phone: '+3' });

  const file = join(directory, 'customers.ndjson');
  await writeFile(file, '{"customerId":"imported","customerEmail":"i@example.com"}\n');
  await runOpm(['customers', 'import', file, '--project', 'acme'], env);
  await waitFor(() => store.customers.find(projectId, 'imported'), { description: 'the imported customer' });
  expect(await opm('customers', 'export', '--project', 'acme')).toContain('"imported"');

  await store.deadLetters.add([
    {
      projectId,
      entry: { customerId: 'replayed', version: 1, fields: { email: 'r@example.com' } } as never,
      payload: { customerId: 'replayed', version: 1, fields: { email: 'r@example.com' } },
      error: 'test',
    },
  ]);
  expect(await opm('dead-letters', 'list')).toContain('test');
  await runOpm(['dead-letters', 'replay', '--project', 'acme'], env);
  await waitFor(() => store.customers.find(projectId, 'replayed'), { description: 'the replayed customer' });
});

test('PostgreSQL ends an abandoned statement, and the settings apply to this pool only', async () => {
  const settings = 'SELECT current_setting($1) AS lock, current_setting($2) AS statement, current_setting($3) AS scans';
  const values = ['lock_timeout', 'statement_timeout', 'enable_seqscan'];
  expect(await query(pgbouncer.url, settings, values)).toEqual([{ lock: '5s', statement: '15s', scans: 'off' }]);
  expect(await query(backend.databaseUrl, settings, values)).toEqual([{ lock: '0', statement: '0', scans: 'on' }]);

  const holder = new pg.Client({ connectionString: backend.databaseUrl });
  await holder.connect();
  await holder.query('BEGIN; LOCK TABLE projects');
  // One process gives up after half a second, as an ingress does; the other one waits for the answer.
  const impatient = createStore({
    databaseUrl: pgbouncer.url,
    applicationName: 'opm-impatient',
    statementTimeoutMs: 500,
  });
  const patient = createStore({ databaseUrl: pgbouncer.url, applicationName: 'opm-patient' });
  await expect(impatient.projects.list()).rejects.toMatchObject({ kind: 'outage' });
  await expect(patient.projects.list()).rejects.toMatchObject({ kind: 'blocked', sqlState: '55P03' });
  const isFree = async () => {
    const text = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'opm-%patient'`;
    return (await query(backend.databaseUrl, text)).length === 0;
  };
  await waitFor(isFree, { description: 'no statement that waits', timeoutMs: 6 * LOCK_TIMEOUT_MS });
  await holder.end();
  await Promise.all([impatient.close(), patient.close()]);
});

test('`opm migrate` and a queue in PostgreSQL report that they need a direct connection, and leave no lock behind', async () => {
  const { code, stderr } = await runOpm(['migrate'], env);
  expect([code, stderr]).toEqual([1, expect.stringContaining("set DATABASE_URL to PostgreSQL's own address")]);
  for (const name of ['ingress', 'worker']) {
    const app = await startProcess({
      file: `apps/${name}/dist/main.js`,
      env: { ...env, REDIS_URL: '', PORT: '0', INTERNAL_PORT: '0' },
      readyOutput: /the queue in PostgreSQL needs direct connections.*set REDIS_URL/,
    });
    expect(await app.stop()).toEqual({ code: 0, signal: null });
  }
  await migrateQueue(backend.databaseUrl);
  expect((await runOpm(['migrate'], { DATABASE_URL: backend.databaseUrl })).code).toBe(0);
});
