import { describe, expect, test } from '@jest/globals';
import { serveConsole } from '../src/app.js';
import { basic, openDashboard, PASSWORD } from './open-dashboard.js';

describe('console login', () => {
  test.each([
    ['no password', undefined, 'password required\n'],
    ['a wrong password', basic('wrong'), 'wrong password\n'],
    ['an empty password', basic(''), 'wrong password\n'],
    ['another scheme', 'Bearer a-token', 'password required\n'],
    ['nonsense', 'Basic %%%', 'password required\n'],
  ])('asks for the password when given %s', async (_, authorization, text) => {
    const dashboard = await openDashboard();
    for (const path of ['/', '/queues', '/queues/api/queues', '/queues/static/images/logo.svg', '/nowhere']) {
      const answer = await dashboard.get(path, { ...(authorization && { authorization }) }, { login: false });
      expect({ path, status: answer.status, text: await answer.text() }).toEqual({ path, status: 401, text });
      expect(answer.headers.get('www-authenticate')).toMatch(/^Basic realm=/);
    }
  });

  test('opens with the password under any user name and leads to the dashboard', async () => {
    const dashboard = await openDashboard();
    const authorization = `Basic ${Buffer.from(`anyone:${PASSWORD}`).toString('base64')}`;
    const answer = await dashboard.get('/', { authorization }, { login: false });
    expect([answer.status, answer.headers.get('location')]).toEqual([302, '/queues']);
  });

  test('answers 429 after 20 wrong passwords, even to the right one', async () => {
    const dashboard = await openDashboard();
    const guess = () => dashboard.get('/queues', { authorization: basic('wrong') }, { login: false });
    const statuses: number[] = [];
    for (let guesses = 0; guesses < 21; guesses++) statuses.push((await guess()).status);
    expect(statuses).toEqual([...Array(20).fill(401), 429]);

    const right = await dashboard.get('/queues');
    expect(right.status).toBe(429);
    expect(Number(right.headers.get('retry-after'))).toBeGreaterThan(0);
  });

  test('never counts requests with the right password or without one', async () => {
    const dashboard = await openDashboard();
    for (let requests = 0; requests < 50; requests++) {
      expect((await dashboard.get('/queues', {}, { login: requests % 2 === 0 })).status).toBe(
        requests % 2 === 0 ? 200 : 401,
      );
    }
  });

  test('is not created without a password', async () => {
    await expect(openDashboard({ password: '' })).rejects.toThrow('the console needs a password');
  });

  test.each([
    ['another site', { 'sec-fetch-site': 'cross-site' }, 403],
    ['another port of this host', { 'sec-fetch-site': 'same-site' }, 403],
    ['a browser without Sec-Fetch-Site, from another site', { origin: 'https://evil.example' }, 403],
    ['a page without an origin', { origin: 'null' }, 403],
    ['our own page', { 'sec-fetch-site': 'same-origin' }, 200],
    ['a client that is not a browser', {}, 200],
  ])('accepts changes only from its own pages: %s', async (_, headers: Record<string, string>, status) => {
    const dashboard = await openDashboard({ readOnly: false });
    expect((await dashboard.send('PUT', '/queues/api/queues/pause', headers)).status).toBe(status);
  });

  test('reveals neither its framework nor an error, and forbids foreign scripts and frames', async () => {
    const dashboard = await openDashboard();
    for (const path of [
      '/queues',
      '/queues/api/queues',
      '/nowhere',
      '/queues/api/queues/unknown/1',
      '/queues/queue/%zz',
    ]) {
      const answer = await dashboard.get(path);
      expect(answer.headers.get('x-powered-by')).toBeNull();
      expect(answer.headers.get('content-security-policy')).toMatch(/script-src 'self';.*frame-ancestors 'none'/);
      expect(await answer.text()).not.toMatch(/node_modules|^ +at /m);
    }
  });

  test('keeps the API out of caches', async () => {
    const dashboard = await openDashboard();
    expect((await dashboard.get('/queues/api/queues')).headers.get('cache-control')).toBe('no-store');
  });

  test('rejects with the reason when its port is taken', async () => {
    const dashboard = await openDashboard();
    const again = serveConsole({ app: () => {}, port: dashboard.port, host: '127.0.0.1' });
    await expect(again).rejects.toMatchObject({ code: 'EADDRINUSE', port: dashboard.port });
  });
});
