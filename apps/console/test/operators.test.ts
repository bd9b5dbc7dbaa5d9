import { mkdtemp, readFile, rm } from 'node:fs/promises';
import https from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { appRoutes } from '@bull-board/api/dist/routes.js';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { type Role, type Store, StoreError } from '@opm/store';
import { createTestDatabase, query, startProxy, type TestDatabase, waitFor } from '@opm/testkit';
import { createCertificates } from '../../../tests/create-certificates.js';
import { createConsoleApp } from '../src/app.js';
import { createAttempts } from '../src/guard.js';
import { toLocalPath } from '../src/login.js';
import { createPages } from '../src/pages/pages.js';
import { createReads } from '../src/reads.js';
import { toCsrfToken } from '../src/session.js';
import { addOperator } from './add-operator.js';
import { basic, type Dashboard, openDashboard, openStore, PASSWORD } from './open-dashboard.js';

const OWN = 'a password of Ada';
const LONG_MS = 600_000;

let database: TestDatabase;
let store: Store;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  await query(database.url, 'TRUNCATE operators, operator_sessions, audit_log');
  store = openStore(database.url);
});

const add = (name: string, role: Role = 'operator') => addOperator(database.url, { name, role, password: OWN });
const open = () => openDashboard({ store });

async function logIn(dashboard: Dashboard, name: string, password = OWN, cookie = '') {
  const answer = await dashboard.submit('/login', { name, password, next: '/queues' }, cookie);
  return { status: answer.status, cookie: toCookie(answer) };
}

const toCookie = (answer: Response) => /^opm_console=[\w-]{43}/.exec(answer.headers.get('set-cookie') ?? '')?.[0] ?? '';
/** The token that the forms of this session carry. */
const readCsrf = (cookie: string) => toCsrfToken(cookie.replace(/.*=/, ''));
const isOpen = async (dashboard: Dashboard, cookie: string) => (await dashboard.open('/queues', cookie)).status === 200;
const readAudit = async () =>
  (await store.audit.list({}, { limit: 100 })).map(({ actor, action, source, address }) => [
    actor,
    action,
    source,
    address,
  ]);

describe('logging in', () => {
  test('with name and password opens the page that was asked for, and is in the audit log', async () => {
    await add('ada');
    const dashboard = await open();
    const asked = await dashboard.open('/queues/queue/entries-0?page=2');
    const login = new URL(asked.headers.get('location') as string, 'http://console');
    expect([asked.status, login.pathname]).toEqual([303, '/login']);
    const form = await (await dashboard.open(login.pathname + login.search)).text();
    expect(form).toContain('name="next" value="/queues/queue/entries-0?page=2"');

    const fields = { name: 'ada', password: OWN, next: login.searchParams.get('next') as string };
    const answer = await dashboard.submit('/login', fields);
    expect([answer.status, answer.headers.get('location')]).toEqual([303, '/queues/queue/entries-0?page=2']);
    expect(answer.headers.get('set-cookie')).toMatch(
      /^opm_console=[\w-]{43}; Max-Age=43200; Path=\/; Expires=[^;]+; HttpOnly; SameSite=Strict$/,
    );
    expect(await isOpen(dashboard, toCookie(answer))).toBe(true);
    expect(await readAudit()).toEqual([['ada', 'login', 'console', '127.0.0.1']]);
  });

  test('redirects pages only: other requests get 401, with a challenge if they are from a script', async () => {
    const dashboard = await open();
    const read = async (headers: Record<string, string>) => {
      const answer = await dashboard.get('/queues/api/queues', headers, { login: false });
      return [answer.status, answer.headers.has('www-authenticate')];
    };
    expect(await read({})).toEqual([401, true]);
    expect(await read({ 'sec-fetch-site': 'same-origin' })).toEqual([401, false]);
    expect(await read({ cookie: `opm_console=${'a'.repeat(43)}` })).toEqual([401, false]);
    const form = await dashboard.submit('/logout', {});
    expect([form.status, form.headers.get('location')]).toEqual([303, '/login']);
  });

  test('with a wrong password and with an unknown name get the same answer; no unknown name is recorded', async () => {
    await add('ada');
    const dashboard = await open();
    const read = async (name: string) => {
      const answer = await dashboard.submit('/login', { name, password: 'wrong password' });
      return [answer.status, answer.headers.get('set-cookie'), (await answer.text()).replace(name, 'NAME')];
    };
    const [known, unknown] = [await read('ada'), await read('my-secret-password')];
    expect(known).toEqual(unknown);
    expect(known[0]).toBe(401);
    expect(await readAudit()).toEqual([
      ['-', 'login failed', 'console', '127.0.0.1'],
      ['ada', 'login failed', 'console', '127.0.0.1'],
    ]);
  });

  test('writes what was typed as text, not as HTML', async () => {
    const dashboard = await open();
    const hostile = '"><script>alert(1)</script>';
    const form = await (await dashboard.open(`/login?next=${encodeURIComponent(hostile)}`)).text();
    const again = await (await dashboard.submit('/login', { name: hostile, password: 'x', next: hostile })).text();
    for (const page of [form, again]) expect(page).not.toContain('<script>');
  });

  test.each([
    ['/queues?a=b', '/queues?a=b'],
    ['', '/'],
    ['https://evil.example/', '/'],
    ['//evil.example/', '/'],
    ['/\\evil.example/', '/'],
    ['/\t/evil.example/', '/'],
    ['/.//evil.example/', '/'],
    ['/%2e//evil.example/', '/'],
    ['javascript:alert(1)', '/'],
    ['queues', '/'],
  ])('never leads to another site: %j', (next, path) => {
    expect(toLocalPath(next)).toBe(path);
  });

  test('draws a new token each time, ends the session before, and adopts no token of the browser', async () => {
    await add('ada');
    const dashboard = await open();
    const planted = `opm_console=${'x'.repeat(43)}`;
    const first = await logIn(dashboard, 'ada', OWN, planted);
    const second = await logIn(dashboard, 'ada', OWN, first.cookie);
    expect(new Set([planted, first.cookie, second.cookie]).size).toBe(3);
    expect(
      await Promise.all([planted, first.cookie, second.cookie].map((cookie) => isOpen(dashboard, cookie))),
    ).toEqual([false, false, true]);
  });

  test('over TLS sets a cookie that browsers send over TLS only', async () => {
    await add('ada');
    const directory = await mkdtemp(join(tmpdir(), 'opm-console-'));
    const { ca, cert, key } = await createCertificates(directory);
    const [trusted, ...pair] = await Promise.all([ca, cert, key].map((file) => readFile(file)));
    const app = createConsoleApp({ queues: [], store, password: PASSWORD });
    const server = https.createServer({ cert: pair[0], key: pair[1] }, app).listen(0, '127.0.0.1');
    const body = String(new URLSearchParams({ name: 'ada', password: OWN }));
    const cookies = await new Promise<string[] | undefined>((resolve, reject) => {
      const headers = { 'content-type': 'application/x-www-form-urlencoded', 'content-length': body.length };
      const port = () => (server.address() as AddressInfo).port;
      server.on('listening', () => {
        const options = { host: '127.0.0.1', port: port(), path: '/login', method: 'POST', ca: trusted, headers };
        https
          .request({ ...options, agent: false }, (answer) => resolve(answer.resume().headers['set-cookie']))
          .on('error', reject)
          .end(body);
      });
    });
    expect(cookies).toEqual([expect.stringMatching(/^__Host-opm_console=.*; Path=\/; .*; Secure; SameSite=Strict$/)]);
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await rm(directory, { recursive: true });
  });
});

describe('guessing passwords', () => {
  /** Counts for longer than a minute, in which a slow machine does not check twenty passwords. */
  const open = () => openDashboard({ store, attemptsWindowMs: LONG_MS });
  const guess = (dashboard: Dashboard, name: string) =>
    dashboard.submit('/login', { name, password: 'wrong password' });

  test('is limited to 10 attempts per minute and name, also at the same time, and then for the right one too', async () => {
    await store.operators.add({ name: 'ada', role: 'operator', mayReveal: false, password: OWN }); // checks take long
    const dashboard = await open();
    const statuses = (await Promise.all(Array.from({ length: 15 }, () => guess(dashboard, 'ada')))).map(
      ({ status }) => status,
    );
    expect(statuses.sort()).toEqual([...Array(10).fill(401), ...Array(5).fill(429)]);
    const right = await dashboard.submit('/login', { name: 'ada', password: OWN });
    expect([right.status, Number(right.headers.get('retry-after')) > 0]).toEqual([429, true]);
    expect(await readAudit()).toHaveLength(10);
  });

  test('is limited to 20 attempts per minute and address, whichever the names and the way', async () => {
    const dashboard = await open();
    for (let guesses = 0; guesses < 10; guesses++) {
      expect((await dashboard.get('/queues', { authorization: basic('wrong') })).status).toBe(401);
      expect((await guess(dashboard, `name${guesses % 2}`)).status).toBe(401);
    }
    expect((await dashboard.get('/queues')).status).toBe(429);
    expect((await guess(dashboard, 'another')).status).toBe(429);
    expect((await dashboard.submit('/login', { name: 'admin', password: PASSWORD })).status).toBe(429);
  });

  test('with HTTP Basic at the same time does not pass the limit of the address, which ends within a minute', async () => {
    const dashboard = await openDashboard({ store });
    const requests = Array.from({ length: 30 }, () => dashboard.get('/queues', { authorization: basic('wrong') }));
    const answers = await Promise.all(requests);
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(20).fill(401), ...Array(10).fill(429)]);
    const waits = answers.flatMap(({ headers }) => Number(headers.get('retry-after') ?? []));
    expect(waits.filter((seconds) => seconds > 0 && seconds <= 60)).toHaveLength(10);
  });

  test.each([
    ['without a proxy', 0, (n: number) => `198.51.100.${n}`],
    ['behind a proxy, which adds the address', 1, (n: number) => `198.51.100.${n}, 203.0.113.7`],
  ])('is limited by address %s, whatever X-Forwarded-For the client sends', async (_, trustedProxies, toHeader) => {
    const dashboard = await openDashboard({ store, attemptsWindowMs: LONG_MS, trustedProxies });
    const statuses: number[] = [];
    for (let guesses = 0; guesses < 22; guesses++) {
      const headers = { authorization: basic('wrong'), 'x-forwarded-for': toHeader(guesses) };
      statuses.push((await dashboard.get('/queues', headers)).status);
    }
    expect(statuses).toEqual([...Array(20).fill(401), 429, 429]);
  });

  test('is limited by name if all attempts are sent on one connection, before the first answer', async () => {
    const { port } = await open();
    const body = String(new URLSearchParams({ name: 'admin', password: 'wrong password' }));
    const request = (connection: string) =>
      [
        'POST /login HTTP/1.1\r\nHost: console\r\nSec-Fetch-Site: same-origin\r\nAccept: text/html',
        'Content-Type: application/x-www-form-urlencoded',
        `Content-Length: ${body.length}\r\nConnection: ${connection}\r\n\r\n${body}`,
      ].join('\r\n');
    const socket = connect(port, '127.0.0.1');
    socket.write(request('keep-alive').repeat(29) + request('close'));
    const statuses = [...(await text(socket)).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));
    expect(statuses.sort()).toEqual([...Array(10).fill(401), ...Array(20).fill(429)]);
  });

  test('of many names at the same time is refused for a moment, but not CONSOLE_PASSWORD, which is checked at once', async () => {
    const dashboard = await open();
    const guesses = Array.from({ length: 12 }, (_, i) => guess(dashboard, `name${i}`).then(({ status }) => status));
    await Promise.any(guesses.map(async (status) => expect(await status).toBe(503))); // ten are being checked
    expect((await logIn(dashboard, 'admin', PASSWORD)).status).toBe(303);
    expect((await Promise.all(guesses)).sort()).toEqual([...Array(10).fill(401), 503, 503]);
  });

  test('does not limit those who know theirs', async () => {
    const dashboard = await open();
    for (let logins = 0; logins < 25; logins++) expect((await logIn(dashboard, 'admin', PASSWORD)).status).toBe(303);
  });

  test('is counted in bounded memory: the oldest key is forgotten first', () => {
    const attempts = createAttempts(2, { windowMs: LONG_MS, maxKeys: 3 });
    const isFree = (key: string) => attempts.secondsLeft(key) === 0;
    for (const key of ['a', 'a', 'b', 'b', 'c', 'c']) attempts.count(key);
    expect(['a', 'b', 'c'].map(isFree)).toEqual([false, false, false]);
    attempts.count('d');
    expect(['a', 'b', 'c', 'd'].map(isFree)).toEqual([true, false, false, true]);
    attempts.takeBack('b');
    expect(isFree('b')).toBe(true);
  });

  test('is not forgotten because of attempts that do not count', () => {
    const attempts = createAttempts(1, { windowMs: LONG_MS, maxKeys: 3 });
    attempts.count('a');
    for (const key of ['b', 'c', 'd']) {
      attempts.count(key);
      attempts.takeBack(key);
    }
    expect(attempts.secondsLeft('a')).toBeGreaterThan(0);
  });
});

describe('a session', () => {
  test.each<[string, () => Promise<unknown>]>([
    ['the operator is removed', () => store.operators.remove('ada')],
    ['the role changes', () => store.operators.setRole('ada', { role: 'viewer', mayReveal: false })],
    ['the password changes', () => store.operators.setPassword('ada', 'another password')],
  ])('ends within seconds if %s', async (_, change) => {
    await add('ada');
    const dashboard = await open();
    const { cookie } = await logIn(dashboard, 'ada');
    expect(await isOpen(dashboard, cookie)).toBe(true);
    await change();
    await waitFor(async () => !(await isOpen(dashboard, cookie)), { description: 'the end of the session' });
  });

  test('ends at once at logout, and is in the audit log', async () => {
    await add('ada');
    const dashboard = await open();
    const { cookie } = await logIn(dashboard, 'ada');
    const answer = await dashboard.submit('/logout', { csrf: readCsrf(cookie) }, cookie);
    expect([answer.status, answer.headers.get('location')]).toEqual([303, '/login']);
    expect(answer.headers.get('set-cookie')).toMatch(/^opm_console=; Path=\/; Expires=Thu, 01 Jan 1970/);
    expect(await isOpen(dashboard, cookie)).toBe(false);
    expect((await readAudit())[0]).toEqual(['ada', 'logout', 'console', '127.0.0.1']);
  });

  test('does not outlast CONSOLE_PASSWORD, whoever it is of', async () => {
    await add('ada');
    const dashboard = await open();
    const cookies = [(await logIn(dashboard, 'ada')).cookie, (await logIn(dashboard, 'admin', PASSWORD)).cookie];
    const later = await openDashboard({ store, password: 'another password' });
    const areOpen = (on: Dashboard) => Promise.all(cookies.map((cookie) => isOpen(on, cookie)));
    expect([await areOpen(dashboard), await areOpen(later)]).toEqual([
      [true, true],
      [false, false],
    ]);
  });

  test('lets a form through only with its own token', async () => {
    for (const name of ['ada', 'bob']) await add(name);
    const dashboard = await open();
    const { cookie } = await logIn(dashboard, 'ada');
    const other = await logIn(dashboard, 'bob');
    for (const csrf of ['', 'x', readCsrf(other.cookie)]) {
      expect((await dashboard.submit('/logout', { csrf }, cookie)).status).toBe(403);
    }
    const refused = await dashboard.submit('/logout', {}, cookie);
    const why = 'the form is from another session: go back, reload that page, and send the form again\n';
    expect([refused.status, await refused.text()]).toEqual([403, why]);
    const json = { cookie, authorization: '', 'content-type': 'application/json' };
    expect((await dashboard.send('POST', '/logout', json)).status).toBe(403);
    expect((await dashboard.send('POST', '/logout')).status).toBe(403);
    expect(await isOpen(dashboard, cookie)).toBe(true);
    expect((await dashboard.submit('/logout', { csrf: readCsrf(cookie) }, cookie)).status).toBe(303);
  });

  test.each<[Role, number]>([
    ['viewer', 403],
    ['operator', 200],
    ['admin', 200],
  ])('of a %s changes the queue with the answer %d', async (role, status) => {
    await add('ada', role);
    const dashboard = await openDashboard({ store, readOnly: false });
    const { cookie } = await logIn(dashboard, 'ada');
    expect(await isOpen(dashboard, cookie)).toBe(true);
    const headers = { cookie, authorization: '' };
    expect((await dashboard.send('PUT', '/queues/api/queues/pause', headers)).status).toBe(status);
  });
});

describe('CONSOLE_PASSWORD', () => {
  test('opens the console, by form and for scripts, until a stored operator is an admin', async () => {
    const dashboard = await open();
    const basicStatus = async () => (await dashboard.get('/queues')).status;
    const { status, cookie } = await logIn(dashboard, 'admin', PASSWORD);
    expect([status, await isOpen(dashboard, cookie), await basicStatus()]).toEqual([303, true, 200]);

    await add('ada', 'admin');
    await waitFor(async () => (await basicStatus()) === 401, { description: 'the refusal' });
    const refused = await dashboard.get('/queues');
    expect([await refused.text(), refused.headers.get('www-authenticate')]).toEqual([
      'CONSOLE_PASSWORD is not accepted any more: log in at /login\n',
      null,
    ]);
    await waitFor(async () => !(await isOpen(dashboard, cookie)), { description: 'the end of the session' });
    expect((await logIn(dashboard, 'admin', PASSWORD)).status).toBe(401);

    await store.operators.remove('ada');
    await waitFor(async () => (await basicStatus()) === 200, { description: 'the password' });
  });

  test('still opens the dashboard for scripts and browsers while PostgreSQL is down', async () => {
    const proxy = await startProxy(database.url);
    const dashboard = await openDashboard({ store: openStore(proxy.url) });
    expect((await dashboard.get('/queues')).status).toBe(200);
    await proxy.cut();
    await waitFor(async () => (await dashboard.open('/queues')).status === 401, { description: 'the challenge' });
    expect((await dashboard.open('/queues')).headers.get('www-authenticate')).toMatch(/^Basic /);
    expect((await dashboard.get('/queues', { accept: 'text/html' })).status).toBe(200);
    const form = await dashboard.submit('/login', { name: 'admin', password: PASSWORD });
    expect([form.status, await form.text()]).toEqual([503, expect.stringContaining('PostgreSQL does not answer')]);

    await proxy.restore();
    await waitFor(async () => (await dashboard.open('/queues')).status === 303, { description: 'the login page' });
    await proxy.close();
  });

  test('stays refused while PostgreSQL is down, if a stored operator was an admin', async () => {
    await add('ada', 'admin');
    const proxy = await startProxy(database.url);
    const dashboard = await openDashboard({ store: openStore(proxy.url) });
    expect((await dashboard.get('/queues')).status).toBe(401);
    const { cookie } = await logIn(dashboard, 'ada');
    await proxy.cut();
    const isDown = async () => (await dashboard.open('/queues')).status === 503;
    await waitFor(isDown, { description: 'the page that says that PostgreSQL does not answer' });
    const page = await dashboard.open('/queues');
    expect(page.headers.get('www-authenticate')).toBeNull(); // no password would help
    expect(await page.text()).toContain('PostgreSQL does not answer');
    expect((await dashboard.get('/queues')).status).toBe(401);
    // The session of this script may be valid.
    const script = await dashboard.get('/queues/api/queues', { cookie }, { login: false });
    expect([script.status, await script.json()]).toEqual([
      503,
      { error: 'Not done', message: 'PostgreSQL does not answer' },
    ]);
  });
});

test('a viewer can change nothing in the Bull dashboard: each of its routes answers 403', async () => {
  await add('ada', 'viewer');
  const dashboard = await openDashboard({ store, readOnly: false });
  const { cookie } = await logIn(dashboard, 'ada');
  const changes = appRoutes.api
    .filter(({ method }) => method !== 'get')
    .flatMap(({ method, route }) =>
      [method].flat().flatMap((each) => [route].flat().map((path) => [each, path] as const)),
    );
  expect(changes.length).toBeGreaterThan(14);
  for (const [method, route] of changes) {
    const path = `/queues${route.replaceAll(/:\w+/g, 'x')}`;
    const answer = await dashboard.send(method, path, { cookie, authorization: '' });
    expect([method, path, answer.status, await answer.text()]).toEqual([
      method,
      path,
      403,
      expect.stringContaining('this needs the role operator'),
    ]);
  }
});

test('a change in the Bull dashboard that was refused does not look done in the audit log', async () => {
  await add('ada');
  const dashboard = await openDashboard({ store, readOnly: false });
  const { cookie } = await logIn(dashboard, 'ada');
  const headers = { cookie, authorization: '' };
  expect((await dashboard.send('PUT', '/queues/api/queues/pause', headers)).status).toBe(200);
  expect((await dashboard.send('PUT', '/queues/api/queues/unknown/empty', headers)).status).toBe(403);
  const changed = { action: 'queues PUT', target: '/queues/api/queues/pause', outcome: null };
  const refused = { action: 'queues PUT', target: '/queues/api/queues/unknown/empty', outcome: 'not done' };
  const list = () => store.audit.list({ actor: 'ada' }, { limit: 100 });
  await waitFor(async () => (await list())[0]?.outcome === 'not done', { description: 'the outcome' });
  expect(await list()).toMatchObject([refused, changed, { action: 'login' }]);
});

const DOWN = 'PostgreSQL does not answer. Start it, or find out why it cannot be reached; then';
const SLOW = 'PostgreSQL needed more than 5 s for this.';
test.each([
  ['outage', 'a page', `${DOWN} reload this page.`],
  ['outage', 'a form', `${DOWN} check whether the change was made before you repeat it.`],
  ['blocked', 'a page', `${SLOW} Try again, or narrow the filter.`],
  ['blocked', 'a form', `${SLOW} Check whether the change was made before you repeat it.`],
] as const)('if PostgreSQL fails (%s), the answer to %s says what to do', async (kind, asked, says) => {
  const fail = () => Promise.reject(new StoreError('failed for the test', { kind, cause: new Error('of pg') }));
  const deps = { queue: undefined as never, replays: undefined as never, shards: 1, showData: false };
  const reads = { ...createReads({ ...deps, store }), partners: fail };
  const failing = { ...store, projects: { ...store.projects, names: fail } };
  const pages = createPages({ ...deps, reads, store: failing });
  await add('ada');
  const dashboard = await openDashboard({ store, pages, readOnly: false });
  const { cookie } = await logIn(dashboard, 'ada');
  const fields = { csrf: readCsrf(cookie), confirmed: 'on' };
  const answer = await (asked === 'a page'
    ? dashboard.open('/partners', cookie)
    : dashboard.submit('/partners/1/pause', fields, cookie));
  expect([answer.status, await answer.text()]).toEqual([503, expect.stringContaining(`<p>${says}</p>`)]);
});

test('no password, token or name that was tried is in a log line or an audit row', async () => {
  await add('ada');
  const lines: string[] = [];
  const write = (fields: object, message: string) => void lines.push(JSON.stringify([fields, message]));
  const dashboard = await openDashboard({ store, logger: { info: write, warn: write, error: write } });
  const { cookie } = await logIn(dashboard, 'ada');
  await logIn(dashboard, 'ada', 'tried-password');
  await logIn(dashboard, 'tried-name', 'tried-password');
  await dashboard.get('/queues', { authorization: basic('tried-password') });
  const rows = await query(database.url, 'SELECT * FROM audit_log');
  expect([lines.length, rows.length]).toEqual([3, 4]);
  const token = cookie.replace(/.*=/, '');
  for (const secret of [OWN, PASSWORD, 'tried', token]) expect(JSON.stringify([lines, rows])).not.toContain(secret);
});
