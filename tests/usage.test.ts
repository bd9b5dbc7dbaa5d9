import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, query, startApp, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';

type Partner = { projectId: number; name: string; apiKey: string };
type Day = { day: string; accepted: number; notStored: number; refused: Record<string, number> };

const NOTHING = {
  ...{ accepted: 0, created: 0, updated: 0, erased: 0, notStored: 0 },
  refused: { invalid: 0, limited: 0, unavailable: 0 },
};

describe.each(BACKENDS)('GET /usage and GET /keys, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let worker: TestApp;
  let acme: Partner;
  let other: Partner;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    [acme, other] = [await store.projects.create('acme'), await store.projects.create('another')];
    [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
    await query(backend.databaseUrl, "ALTER TABLE customers ADD CHECK (email <> 'poison@example.com')");
  });
  afterAll(async () => {
    await Promise.all([ingress, worker].map((app) => app.stop()));
    await store.close();
    await backend.drop();
  });

  const send = async ({ apiKey }: Partner, method: string, path: string, body?: unknown) => {
    const response = await fetch(ingress.url + path, {
      method,
      headers: { 'x-api-key': apiKey, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text && JSON.parse(text) };
  };
  const usageOf = async (partner: Partner, search = ''): Promise<Day[]> => {
    const { status, body } = await send(partner, 'GET', `/usage${search}`);
    expect([status, body.statusCode]).toEqual([200, 200]);
    return body.days;
  };
  const toEntry = (customerId: number | string, customerEmail = 'a@example.com') => ({ customerId, customerEmail });
  const today = () => store.now().then((now) => now.toISOString().slice(0, 10));

  test('the counts are what was sent: created, updated, erased, refused by kind, and not stored', async () => {
    await store.projects.setLimit(other.projectId, { rate: 1, burst: 1 });
    const first = await today();
    const statuses = [
      await send(acme, 'POST', '/entry', toEntry(1)),
      await send(acme, 'POST', '/entry', toEntry(1, 'b@example.com')),
      await send(acme, 'POST', '/entries', [
        toEntry(2),
        toEntry(2),
        { customerId: 3 },
        toEntry(4, 'poison@example.com'),
      ]),
      await send(acme, 'POST', '/entry', { customerId: 5 }),
      await send(acme, 'POST', '/entry', 'no object'),
      await send(acme, 'DELETE', '/entry/1'),
      await send(acme, 'DELETE', '/entry/nobody'),
      await send(acme, 'GET', '/entry/2'),
      await send(acme, 'POST', '/entries/receipts', [{ customerId: 2 }]),
      await send(acme, 'GET', '/nowhere'),
      await send(acme, 'PUT', '/entry'),
    ].map(({ status }) => status);
    expect(statuses).toEqual([201, 202, 207, 400, 400, 202, 404, 200, 400, 404, 405]);
    const isLimited = async () => (await send(other, 'POST', '/entry', toEntry(1))).status === 429;
    await waitFor(isLimited, { description: 'the limit' });

    const isCounted = async (partner: Partner, ready: (day: Day) => boolean) => {
      const day = (await usageOf(partner)).findLast(ready);
      return day && [day];
    };
    const [ofAcme] = await waitFor(
      () => isCounted(acme, ({ notStored, accepted, refused }) => notStored + accepted + (refused.invalid ?? 0) === 9),
      { description: 'the counts of ingress and worker' },
    );
    expect(await today()).toBe(first); // at midnight, run it again
    expect(ofAcme).toEqual({
      ...{ day: first, accepted: 5, created: 3, updated: 2, erased: 1, notStored: 1 },
      refused: { invalid: 3, limited: 0, unavailable: 0 },
    });
    const [ofOther] = await waitFor(() => isCounted(other, ({ refused }) => refused.limited === 1), {
      description: 'the counts of the limited project',
    });
    expect(ofOther).toMatchObject({ refused: { invalid: 0, limited: 1, unavailable: 0 }, notStored: 0 });

    await query(backend.databaseUrl, "UPDATE project_minutes SET minute = minute - interval '1 day'");
    await store.activity.rollUp();
    const yesterday = new Date(Date.parse(first) - 86_400_000).toISOString().slice(0, 10);
    const isMoved = async () => (await usageOf(acme)).find(({ day, accepted }) => day === yesterday && accepted > 0);
    expect(await waitFor(isMoved, { description: 'the day before' })).toEqual({ ...ofAcme, day: yesterday });
    expect((await query(backend.databaseUrl, 'SELECT FROM project_days')).length).toBeGreaterThan(1);
  });

  test('every day is listed, 30 without a query, and at most 400', async () => {
    const { projectId, apiKey } = await store.projects.create('idle');
    const idle = { projectId, name: 'idle', apiKey };
    const days = await usageOf(idle);
    expect([days.length, days.at(-1)]).toEqual([30, { day: await today(), ...NOTHING }]);
    expect(await usageOf(idle, '?from=2026-02-28&to=2026-03-01')).toEqual([
      { day: '2026-02-28', ...NOTHING },
      { day: '2026-03-01', ...NOTHING },
    ]);
    expect(await usageOf(idle, '?from=2024-02-29&to=2025-04-03')).toHaveLength(400);
    const { status, headers, body } = await send(idle, 'HEAD', '/usage');
    expect([status, headers.get('cache-control'), body]).toEqual([200, 'no-store', '']);
  });

  test.each([
    ['?from=yesterday', 'query/from must be a day such as 2026-11-30'],
    ['?to=2026-02-30', 'query/to must be a day such as 2026-11-30'],
    ['?to=', 'query/to must be a day such as 2026-11-30'],
    ['?from=2026-11-01&from=2026-11-02', 'query/from must be given once'],
    ['?from[]=2026-11-01', 'query/from[] is not known, use from or to'],
    ['?__proto__=1', 'query/__proto__ is not known, use from or to'],
    ['?from=2026-11-02&to=2026-11-01', 'query/to must not be before query/from'],
    ['?from=2020-01-01&to=2021-02-04', 'query/from must be less than 400 days before query/to'],
  ])('the query %s is a 400: %s', async (search, message) => {
    const { status, body } = await send(acme, 'GET', `/usage${search}`);
    expect([status, body]).toEqual([400, { statusCode: 400, error: 'Bad Request', message }]);
  });

  test('a partner sees its own active keys, without secrets and ids, and when they were last used', async () => {
    const { projectId, apiKey } = await store.projects.create('keys');
    const second = await store.apiKeys.issue(projectId, {
      label: 'billing',
      scopes: ['read'],
      addresses: ['127.0.0.1'],
    });
    const partner = { projectId, name: 'keys', apiKey: second };
    const isUsed = async () => {
      const { body } = await send(partner, 'GET', '/keys');
      return body.keys[0].lastUsedAt !== null && body;
    };
    const body = await waitFor(isUsed, { description: 'the report of the use' });
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    const own = { createdAt: time, expiresAt: null };
    expect(body).toEqual({
      statusCode: 200,
      keys: [
        {
          ...own,
          hint: second.slice(0, 10),
          label: 'billing',
          scopes: ['read'],
          addresses: ['127.0.0.1'],
          lastUsedAt: time,
        },
        {
          ...own,
          hint: apiKey.slice(0, 10),
          label: null,
          scopes: ['write', 'read', 'erase'],
          addresses: [],
          lastUsedAt: null,
        },
      ],
    });
    await store.apiKeys.rotate(projectId, { graceMs: 3_600_000, scopes: ['read'], addresses: [] });
    await store.apiKeys.revoke(projectId, { keyId: (await store.apiKeys.list(projectId))[0]?.keyId });
    const listed = async () => (await send(partner, 'GET', '/keys')).body.keys;
    const keys = await waitFor(async () => (await listed())[0].label === null && (await listed()), {
      description: 'the new key in the list',
    });
    expect(keys.map(({ label, expiresAt }: { label: string; expiresAt: string }) => [label, expiresAt])).toEqual([
      [null, null],
      ['billing', time],
    ]);
    const { status, headers } = await send(partner, 'HEAD', '/keys');
    expect([status, headers.get('cache-control')]).toEqual([200, 'no-store']);
  });

  test.each([
    ['/usage', 'project_days', 'usage could not be read, try again'],
    ['/keys', 'key_uses', 'API keys could not be read, try again'],
  ])('if PostgreSQL does not answer, GET %s is a 503, and all else goes on', async (path, table, message) => {
    const own = await startApp('ingress', { ...backend.env, ANSWER_TIMEOUT_MS: '1000' });
    const ask = async (to: string, init: RequestInit = {}) => {
      const response = await fetch(own.url + to, { ...init, headers: { 'x-api-key': acme.apiKey } });
      return [response.status, ((await response.json()) as { message?: string }).message];
    };
    const post = () => ask('/entry', { method: 'POST', body: JSON.stringify(toEntry(2)) });
    await waitFor(async () => (await post())[0] === 202, { description: 'the customer' });
    const locker = new pg.Client({ connectionString: backend.databaseUrl });
    await locker.connect();
    await locker.query('BEGIN');
    await locker.query(`LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`);
    const reads = Array.from({ length: 20 }, () => ask(path));
    // On a slow machine, any of these may take longer than the second that this ingress has for an answer.
    const untilAnswered = (status: number, call: () => ReturnType<typeof ask>) =>
      waitFor(async () => (await call())[0] === status, { description: `the status ${status}` });
    await untilAnswered(200, () => ask('/ping'));
    expect(await Promise.all(reads)).toEqual(reads.map(() => [503, message]));
    await untilAnswered(202, post);
    await untilAnswered(200, () => ask('/entry/2'));
    await locker.query('ROLLBACK');
    await locker.end();
    await waitFor(async () => (await ask(path))[0] === 200, { description: 'the answer' });
    await own.stop();
  });
});
