import { appRoutes } from '@bull-board/api/dist/routes.js';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { createTestDatabase, testPrefix } from '@opm/testkit';
import { createPostgresBackend, Queue } from 'bullmq';
import { createConsoleApp } from '../src/app.js';
import { MASKED_ANSWERS } from '../src/mask-answer.js';
import { type ConsoleServer, serveConsole } from '../src/server.js';
import { addScheduler, fillQueue, PERSONAL } from './fill-queue.js';

const PASSWORD = 'a käse for the console';
const PAGES = appRoutes.api.filter(({ method }) => method === 'get');
const ACTIONS = appRoutes.api.filter(({ method }) => method !== 'get');
const REDIS_URL = process.env['OPM_TEST_REDIS_URL'];

const running: ConsoleServer[] = [];
afterEach(async () => {
  for (const server of running.splice(0)) await server.close();
});

type Backend = { queue: Queue; factory?: typeof createPostgresBackend; release(): Promise<void> };

const BACKENDS = {
  async Redis(): Promise<Backend> {
    const queue = new Queue('entries-0', { connection: { url: REDIS_URL }, prefix: testPrefix() });
    return { queue, release: () => queue.obliterate({ force: true }) };
  },
  async PostgreSQL(): Promise<Backend> {
    const database = await createTestDatabase();
    const connection = { connectionString: database.url, schema: 'bullmq', migrate: true };
    const queue = new Queue('entries-0', { connection }, createPostgresBackend) as unknown as Queue;
    return { queue, factory: createPostgresBackend, release: () => database.drop() };
  },
};

describe.each(Object.entries(BACKENDS))('the console over queues on %s', (_, openBackend) => {
  let backend: Backend;
  let queue: Queue;

  beforeAll(async () => {
    backend = await openBackend();
    queue = backend.queue;
    await queue.waitUntilReady();
    await fillQueue(queue, backend.factory);
    await addScheduler(queue);
  });
  afterAll(async () => {
    if (backend.factory) await queue.close();
    await backend.release();
    await queue.close();
  });

  test('shows the dashboard and the counts of the queue', async () => {
    const console = await startConsole({ queues: [queue] });
    const page = await console.get('/queues');
    expect(page.status).toBe(200);
    expect(await page.text()).toContain('OPM Partners API');

    const { queues } = await console.getJson('/queues/api/queues');
    expect(queues).toMatchObject([{ name: 'entries-0', readOnlyMode: true, isPaused: false }]);
    expect(queues[0].counts).toMatchObject(await queue.getJobCounts());
    expect(queues[0].counts).toMatchObject({ completed: 1, failed: 1, waiting: 3, 'waiting-children': 1 });
    expect(await console.getJson('/queues/api/redis/stats')).toHaveProperty('version');
  });

  test('shows no personal data on any page', async () => {
    const console = await startConsole({ queues: [queue] });
    for (const { url, text } of await readAllPages(console, queue)) {
      for (const value of Object.values(PERSONAL)) expect({ url, leaked: text.includes(value) }).toEqual({ url, leaked: false });
    }
  });

  test('shows a developer how a job is built and where it failed', async () => {
    const console = await startConsole({ queues: [queue] });
    const [job] = await queue.getFailed();
    const answer = await console.getJson(`/queues/api/queues/entries-0/${job?.id}`);
    expect(answer).toMatchObject({
      status: 'failed',
      job: {
        name: 'chunk',
        failedReason: '•••',
        stacktrace: [expect.stringMatching(/^UnrecoverableError: •••\n {4}at .*fill-queue/)],
        opts: { attempts: 2_147_483_647, backoff: { type: '•••' } },
        data: { v: 1, projectId: 7, entries: [{ customerId: 'cu•••', version: 1_700_000_000_000_001 }] },
      },
    });
    const fieldNames = Object.keys(answer.job.data.entries[0].fields);
    expect(fieldNames.sort()).toEqual(['email', 'firstName', 'ip', 'lastName', 'phone']);
  });

  test('shows the data when told to, on every page where it masks it otherwise', async () => {
    const console = await startConsole({ queues: [queue], showData: true });
    const revealing = (await readAllPages(console, queue)).filter(({ text }) => text.includes(PERSONAL.lastName));
    expect(new Set(revealing.map(({ route }) => route))).toEqual(
      new Set([
        '/api/queues',
        '/api/queues/:queueName/:jobId',
        '/api/queues/:queueName/:jobId/logs',
        '/api/queues/:queueName/:jobId/flow',
        '/api/job-schedulers',
      ]),
    );
  });

  test('changes nothing unless told to, whatever is asked of it', async () => {
    const console = await startConsole({ queues: [queue] });
    const before = await queue.getJobCounts();
    const [job] = await queue.getFailed();
    for (const { method, route } of ACTIONS) {
      const answer = await console.send(String(method), fillIn(route, job?.id));
      expect({ route, status: answer.status }).toEqual({ route, status: 403 });
    }
    expect(await queue.getJobCounts()).toEqual(before);
    expect(await queue.isPaused()).toBe(false);
  });

  test('lets an operator pause, resume and retry, but neither add, edit nor remove jobs', async () => {
    const console = await startConsole({ queues: [queue], readOnly: false });
    const [job] = await queue.getFailed();

    const allowed = new Set<unknown>();
    for (const { method, route } of ACTIONS.filter(({ route }) => !/pause|resume|retry|promote/.test(String(route)))) {
      const answer = await console.send(String(method), fillIn(route, job?.id));
      if (answer.status !== 403) allowed.add(route);
    }
    expect(allowed).toEqual(new Set());

    await console.send('PUT', '/queues/api/queues/entries-0/pause');
    expect(await queue.isPaused()).toBe(true);
    await console.send('PUT', '/queues/api/queues/entries-0/resume');
    expect(await queue.isPaused()).toBe(false);
    await console.send('PUT', `/queues/api/queues/entries-0/${job?.id}/retry`);
    expect(await job?.getState()).toBe('waiting');
  });
});

describe('the way into the console', () => {
  test.each([
    ['no password', undefined],
    ['a wrong password', basic('wrong')],
    ['an empty password', basic('')],
    ['another scheme', 'Bearer a-token'],
    ['nonsense', 'Basic %%%'],
  ])('asks for the password when given %s', async (_, authorization) => {
    const console = await startConsole();
    for (const path of ['/', '/queues', '/queues/api/queues', '/queues/static/images/logo.svg', '/nowhere']) {
      const answer = await console.get(path, { ...(authorization && { authorization }) }, { login: false });
      expect({ path, status: answer.status }).toEqual({ path, status: 401 });
      expect(answer.headers.get('www-authenticate')).toMatch(/^Basic realm=/);
    }
  });

  test('opens with the password under any user name and leads to the dashboard', async () => {
    const console = await startConsole();
    const authorization = `Basic ${Buffer.from(`anyone:${PASSWORD}`).toString('base64')}`;
    const answer = await console.get('/', { authorization }, { login: false });
    expect([answer.status, answer.headers.get('location')]).toEqual([302, '/queues']);
  });

  test('ends a series of wrong passwords with 429, even if the next one is right', async () => {
    const console = await startConsole();
    const guess = () => console.get('/queues', { authorization: basic('wrong') }, { login: false });
    const statuses: number[] = [];
    for (let guesses = 0; guesses < 21; guesses++) statuses.push((await guess()).status);
    expect(statuses).toEqual([...Array(20).fill(401), 429]);

    const right = await console.get('/queues');
    expect(right.status).toBe(429);
    expect(Number(right.headers.get('retry-after'))).toBeGreaterThan(0);
  });

  test('never counts requests with the right password or without one', async () => {
    const console = await startConsole();
    for (let requests = 0; requests < 50; requests++) {
      expect((await console.get('/queues', {}, { login: requests % 2 === 0 })).status).toBe(requests % 2 === 0 ? 200 : 401);
    }
  });

  test('is not built without a password', () => {
    expect(() => createConsoleApp({ queues: [], password: '' })).toThrow('the console needs a password');
  });

  test.each([
    ['another site', { 'sec-fetch-site': 'cross-site' }, 403],
    ['another port of this host', { 'sec-fetch-site': 'same-site' }, 403],
    ['a browser without Sec-Fetch-Site, from another site', { origin: 'https://evil.example' }, 403],
    ['a page without an origin', { origin: 'null' }, 403],
    ['our own page', { 'sec-fetch-site': 'same-origin' }, 200],
    ['a tool that is no browser', {}, 200],
  ])('lets only its own pages act: %s', async (_, headers: Record<string, string>, status) => {
    const console = await startConsole({ readOnly: false });
    expect((await console.send('PUT', '/queues/api/queues/pause', headers)).status).toBe(status);
  });

  test('gives away neither its framework nor an error, and forbids foreign scripts and frames', async () => {
    const console = await startConsole();
    for (const path of ['/queues', '/queues/api/queues', '/nowhere', '/queues/api/queues/unknown/1', '/queues/queue/%zz']) {
      const answer = await console.get(path);
      expect(answer.headers.get('x-powered-by')).toBeNull();
      expect(answer.headers.get('content-security-policy')).toMatch(/script-src 'self';.*frame-ancestors 'none'/);
      expect(await answer.text()).not.toMatch(/node_modules|^ +at /m);
    }
  });

  test('keeps the API out of caches', async () => {
    const console = await startConsole();
    expect((await console.get('/queues/api/queues')).headers.get('cache-control')).toBe('no-store');
  });

  test("serves each page of this bull-board release; one that a later release adds waits until it's been looked at", () => {
    expect(new Set(PAGES.map(({ route }) => route))).toEqual(new Set(Object.keys(MASKED_ANSWERS)));
  });

  test('rejects with the reason when its port is taken', async () => {
    const console = await startConsole();
    const again = serveConsole({ app: () => {}, port: console.port, host: '127.0.0.1' });
    await expect(again).rejects.toMatchObject({ code: 'EADDRINUSE', port: console.port });
  });
});

type RunningConsole = Awaited<ReturnType<typeof startConsole>>;

async function startConsole(options: Partial<Parameters<typeof createConsoleApp>[0]> = {}) {
  const app = createConsoleApp({ queues: [], password: PASSWORD, ...options });
  const server = await serveConsole({ app, port: 0, host: '127.0.0.1' });
  running.push(server);
  const request = (method: string, path: string, headers: Record<string, string>, body?: string) =>
    fetch(`http://127.0.0.1:${server.port}${path}`, { method, headers, redirect: 'manual', ...(body && { body }) });
  const get = (path: string, headers: Record<string, string> = {}, { login = true } = {}) =>
    request('GET', path, { ...(login && { authorization: basic(PASSWORD) }), ...headers });
  return {
    port: server.port,
    get,
    getJson: async (path: string): Promise<any> => (await get(path)).json(),
    send: (method: string, path: string, headers: Record<string, string> = {}) => {
      const own = { authorization: basic(PASSWORD), 'content-type': 'application/json' };
      return request(method.toUpperCase(), path, { ...own, ...headers }, '{}');
    },
  };
}

function basic(password: string): string {
  return `Basic ${Buffer.from(`operator:${password}`).toString('base64')}`;
}

/** Every page of the API, for every status and every job of the queue. */
async function readAllPages(console: RunningConsole, queue: Queue) {
  const jobs = await queue.getJobs();
  const statuses = ['latest', ...Object.keys(await queue.getJobCounts())].filter((status) => status !== 'paused');
  const urls = PAGES.flatMap(({ route }) => {
    if (route === '/api/queues') {
      return statuses.map((status) => ({ route, url: `/queues/api/queues?activeQueue=entries-0&status=${status}` }));
    }
    const ids = String(route).includes(':jobId') ? jobs.map(({ id }) => id) : [undefined];
    return ids.map((id) => ({ route, url: fillIn(route, id) }));
  });
  return Promise.all(
    urls.map(async ({ route, url }) => {
      const answer = await console.get(url);
      expect({ url, status: answer.status }).toEqual({ url, status: 200 });
      return { route, url, text: await answer.text() };
    }),
  );
}

function fillIn(route: string | string[], jobId = 'none'): string {
  const path = String(route).replace(':queueName', 'entries-0').replace(':jobId', jobId);
  return `/queues${path.replace(':schedulerId', 'nightly').replace(':queueStatus', 'failed')}`;
}
