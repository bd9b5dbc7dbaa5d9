import { once } from 'node:events';
import { createServer } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import {
  type Backend,
  createBackend,
  OPM,
  query,
  runOpm,
  startApp,
  startProcess,
  startProxy,
  type TestApp,
  type TestProcess,
  waitFor,
} from '@opm/testkit';

/** Progress lines, which only a slow run prints. */
const PROGRESS = /^\[.*\n/gm;

let backend: Backend;
let store: Store;
let project: { projectId: number; apiKey: string };
let ingress: TestApp;
let worker: TestApp | undefined;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  project = await store.projects.create('acme');
  [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
});
afterAll(async () => {
  await Promise.all([ingress?.stop(), worker?.stop()]);
  await store?.close();
  await backend?.drop();
});

const envOf = (given: { url?: string; key?: string } = {}) => ({
  OPM_URL: given.url ?? ingress.url,
  OPM_KEY: given.key ?? project.apiKey,
});

const opmBurst = async (args: string[], env: NodeJS.ProcessEnv = envOf()) => {
  const outcome = await runOpm(['burst', ...args], env);
  return outcome.code === 0 ? { ...outcome, stderr: outcome.stderr.replace(PROGRESS, '') } : outcome;
};

const countRows = async (run: string): Promise<number> => {
  const [row] = await query<{ count: string }>(
    backend.databaseUrl,
    'SELECT count(*) FROM customers WHERE customer_id LIKE $1',
    [`burst-${run}-%`],
  );
  return Number(row?.count);
};

describe('a burst reports the outcome of its entries, and they become rows:', () => {
  // On a busy machine, a new customer may get 202 as well.
  test.each<[string, string[], { sent: number; rows: number; statuses: string[] }]>([
    ['single posts', ['--entries', '500'], { sent: 500, rows: 500, statuses: ['201', '202'] }],
    ['batches', ['--entries', '2500', '--batch', '1000'], { sent: 2_500, rows: 2_500, statuses: ['201', '202'] }],
    ['few customers', ['--entries', '300', '--customers', '50'], { sent: 300, rows: 50, statuses: ['201', '202'] }],
    [
      'a hundredth as many',
      ['--entries', '1000', '--customers', '100'],
      { sent: 1_000, rows: 100, statuses: ['201', '202'] },
    ],
    ['updates', ['--entries', '300', '--customers', '70', '--updates'], { sent: 300, rows: 70, statuses: ['202'] }],
    ['fewer than connections', ['--entries', '3'], { sent: 3, rows: 3, statuses: ['201', '202'] }],
  ])('%s', async (_, args, { sent, rows, statuses }) => {
    const { code, stdout, stderr } = await opmBurst([...args, '--connections', '8', '--wait', '5m', '--json']);
    expect([code, stderr]).toEqual([0, '']);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ sent, accepted: sent, refused: 0, unanswered: 0, url: ingress.url });
    expect(statuses).toEqual(expect.arrayContaining(Object.keys(result.statuses)));
    expect(result.stored).toEqual({ sampled: expect.any(Number), missing: [], seconds: expect.any(Number) });
    expect(result.stored.sampled).toBeGreaterThanOrEqual(Math.min(rows, 50));
    expect(result.p50Ms).toBeGreaterThan(0);
    expect(result.maxMs).toBeGreaterThanOrEqual(result.p99Ms);
    await waitFor(async () => (await countRows(result.run)) === rows, { description: 'all rows' });
    expect(await store.customers.find(project.projectId, result.customerId)).toMatchObject({
      email: `${result.customerId}@example.com`,
    });
  });
});

test('without --json, the result is a few lines of text', async () => {
  const { code, stdout } = await opmBurst(['--entries', '200', '--batch', '10', '--wait', '5m']);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^Sent 200 entries to http:\S+ in [\d.]+ s; 200 were accepted, \d+ per second\.\nAnswers: \d+ × 20[12].*\nLatency: p50 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms\nStored: all of a sample of \d+ customers, [\d.]+ s after the last answer\nOne of the customers: burst-\w+-\d+\n$/,
  );
});

test('a key that must not read is refused before anything is sent, unless nothing is read back', async () => {
  const key = await store.apiKeys.issue(project.projectId, { scopes: ['write'] });
  const before = await countRows('%');
  expect(await opmBurst(['--entries', '5'], envOf({ key }))).toEqual({
    ...{ code: 2, stdout: '' },
    stderr:
      'opm: the API key must not read, so nothing can be read back: use a key with the scope read, or --wait 0s\n',
  });
  expect(await countRows('%')).toBe(before);
  expect(await opmBurst(['--entries', '5', '--wait', '0s'], envOf({ key }))).toMatchObject({ code: 0 });
});

test('a rate is not exceeded', async () => {
  const { seconds } = JSON.parse(
    (await opmBurst(['--entries', '300', '--rate', '200', '--wait', '0s', '--json'])).stdout,
  );
  expect(seconds).toBeGreaterThan(1.4);
});

describe('an invalid option or an unreachable API is one clear line:', () => {
  test.each<[string, number, string[], NodeJS.ProcessEnv, RegExp]>([
    ['a wrong key', 1, ['--key', 'opm_wrong'], {}, /^opm: http:\S+ rejected the API key \(401\)\n$/],
    [
      'a wrong address',
      4,
      ['--url', 'http://127.0.0.1:1'],
      {},
      /^opm: cannot reach http:\/\/127\.0\.0\.1:1: ECONNREFUSED\n$/,
    ],
    ['no address', 2, ['--url', 'nowhere'], {}, /^opm: nowhere is not an http or https URL\n$/],
    ['no key', 2, [], { OPM_KEY: '' }, /^opm: no API key: set OPM_KEY or --key\n$/],
    [
      'neither',
      4,
      [],
      { OPM_URL: '', OPM_DATA_DIR: '/nowhere' },
      /^opm: no stack is running in \/nowhere: run `npm start`, or/,
    ],
    ['a batch too large', 2, ['--batch', '1001'], {}, /must be at most 1000/],
    ['too many connections', 2, ['--connections', '10001'], {}, /must be at most 10000/],
    ['no entries', 2, ['--entries', '0'], {}, /must be at least 1/],
  ])('%s', async (_, code, args, env, message) => {
    const { stderr, ...outcome } = await opmBurst(args, { ...envOf(), ...env });
    expect(outcome).toEqual({ code, stdout: '' });
    expect(stderr).toMatch(message);
  });
});

describe('while it runs:', () => {
  let running: TestProcess | undefined;
  let tenant: { projectId: number; apiKey: string };

  afterEach(async () => {
    await running?.stop('SIGKILL');
  });
  const start = async (name: string, url: string) => {
    tenant = await store.projects.create(name);
    const args = ['burst', '--entries', '100000', '--rate', '200', '--json'];
    running = await startProcess({ file: OPM, args, env: envOf({ url, key: tenant.apiKey }) });
    const { projectId } = tenant;
    const hasRows = () =>
      query(backend.databaseUrl, 'SELECT FROM customers WHERE project_id = $1 LIMIT 1', [projectId]);
    await waitFor(async () => (await hasRows()).length > 0, { description: 'the first row' });
    return running;
  };

  /** Skips the progress lines, which the command writes to stderr every five seconds. */
  const readResult = (sending: TestProcess) => JSON.parse(sending.output().slice(sending.output().search(/^\{/m)));

  test('entries that are refused or not answered are counted, and the exit code is 1', async () => {
    const proxy = await startProxy(ingress.url);
    const sending = await start('revoked', proxy.url);
    await proxy.cut();
    const dead = createServer((socket) => socket.destroy());
    const met = once(dead, 'connection');
    dead.listen(Number(new URL(proxy.url).port), '127.0.0.1');
    await met;
    const gone = once(dead, 'close');
    dead.close();
    await gone;
    await proxy.restore();
    await store.apiKeys.revoke(tenant.projectId, {});
    await waitFor(() => ingress.readMetric('opm_answers_total{route="/entry",status="401"}'), {
      description: 'an entry to be refused',
    });
    expect(await sending.stop('SIGINT')).toEqual({ code: 1, signal: null });
    const result = readResult(sending);
    expect(result.unanswered).toBeGreaterThan(0);
    expect(result.refused).toBeGreaterThan(0);
    expect(result.refused).toBe(result.statuses[401]);
    expect(result.sent).toBe(result.accepted + result.refused + result.unanswered);
    await proxy.close();
  });

  test('Ctrl-C ends the burst with the result so far', async () => {
    const sending = await start('stopped', ingress.url);
    const { code } = await sending.stop('SIGINT');
    const result = readResult(sending);
    expect(result).toMatchObject({ isStopped: true, stored: null, unanswered: 0 });
    expect(code).toBe(result.refused > 0 ? 1 : 130);
    expect(result.accepted).toBe(result.sent - result.refused);
    expect(result.accepted).toBeGreaterThan(0);
  });
});

test('the exit code is 1 if an accepted entry is not stored in time', async () => {
  await worker?.stop();
  worker = undefined;
  const { code, stdout } = await opmBurst(['--entries', '20', '--wait', '1s']);
  expect(code).toBe(1);
  expect(stdout).toMatch(
    /^Not stored: 20 of a sample of 20 customers, [\d.]+ s after the last answer, such as burst-\w+-\d+$/m,
  );
  expect(stdout).toContain('See `opm status`: does a worker run?');
});
