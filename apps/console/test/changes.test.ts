import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { hashApiKey } from '@opm/core';
import { replay } from '@opm/operations/actions';
import { createStore, ROLES, type Role, type Store } from '@opm/store';
import { BACKENDS, type Backend, isAwaited, query, startApp, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';
import { addOperator } from './add-operator.js';
import { PASSWORD } from './open-dashboard.js';

const PHONE = '+41 44 668 18 00';
const OWN = 'a password for tests';
/** The boxes of a key that may do everything. */
const EVERYTHING = { write: 'on', read: 'on', erase: 'on' };

type Session = Awaited<ReturnType<typeof logIn>>;

/** Logs in as a browser does. */
async function logIn(url: string, name: string, password = OWN) {
  const form = { method: 'POST', redirect: 'manual', body: new URLSearchParams({ name, password }) } as const;
  const answer = await fetch(`${url}/login`, form);
  expect(answer.status).toBe(303);
  const [cookie = ''] = (answer.headers.get('set-cookie') ?? '').split(';');
  const get = async (path: string): Promise<{ status: number; text: string }> => {
    const page = await fetch(url + path, { headers: { cookie, accept: 'text/html' }, redirect: 'manual' });
    return { status: page.status, text: await page.text() };
  };
  const [, csrf = ''] = /name="csrf" value="([^"]+)"/.exec((await get('/')).text) ?? [];
  return {
    cookie,
    get,
    /** Opens the page as a stream of its updates. */
    async stream(path: string, signal?: AbortSignal) {
      const headers = { cookie, accept: 'text/event-stream' };
      const answer = await fetch(url + path, { headers, ...(signal && { signal }) });
      const chunks: string[] = [];
      const read = async () => {
        for await (const chunk of answer.body ?? []) chunks.push(Buffer.from(chunk).toString());
      };
      return { status: answer.status, text: () => chunks.join(''), ended: read().catch(() => {}) };
    },
    async post(path: string, fields: Record<string, string> = {}, headers: Record<string, string> = {}) {
      const body = new URLSearchParams({ csrf, ...fields });
      const sent = await fetch(url + path, {
        method: 'POST',
        headers: { cookie, ...headers },
        body,
        redirect: 'manual',
      });
      return { status: sent.status, location: sent.headers.get('location'), text: await sent.text() };
    },
  };
}

describe.each(BACKENDS)('changes in the console, with the queue on %s:', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let app: TestApp;
  let sessions: Record<Role, Session>;
  let projectId: number;
  let keyId: number;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ projectId } = await store.projects.create('acme'));
    keyId = (await store.apiKeys.list(projectId))[0]?.keyId ?? 0;
    for (const role of ROLES) await addOperator(backend.databaseUrl, { name: `ada-${role}`, role, password: OWN });
    app = await startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD, CONSOLE_READ_ONLY: 'false' });
    const logInAll = ROLES.map(async (role) => [role, await logIn(app.url, `ada-${role}`)] as const);
    sessions = Object.fromEntries(await Promise.all(logInAll)) as typeof sessions;
  });
  afterAll(async () => {
    await app.stop();
    await store.close();
    await backend.drop();
  });
  beforeEach(() => query(backend.databaseUrl, 'TRUNCATE audit_log'));

  const readAudit = async () =>
    (await store.audit.list({}, { limit: 10 })).map(({ actor, action, target, details, outcome }) => ({
      ...{ actor, action, target, details },
      ...(outcome && { outcome }),
    }));
  const find = async () => (await store.projects.list()).find((project) => project.projectId === projectId);
  const addLetters = (ids: string[], sqlState: string) =>
    store.deadLetters.add(
      ids.map((customerId, i) => {
        const entry = { customerId, version: 1_764_000_000_000_000 + i, fields: { phone: PHONE } };
        return { projectId, entry, payload: entry, error: 'refused for the test', sqlState };
      }),
    );
  const countLetters = async () => (await store.deadLetters.count({})).reduce((sum, { count }) => sum + count, 0);

  /** Every form with the lowest role that may send it. */
  const FORMS: [path: string, role: Role, fields?: Record<string, string>][] = [
    ['/partners/ID/pause', 'operator', { confirmed: 'on' }],
    ['/partners/ID/resume', 'operator'],
    ['/partners/ID/limit', 'operator', { rate: '5', burst: '5' }],
    ['/partners', 'admin', { name: 'new' }],
    ['/partners/ID/keys', 'admin', EVERYTHING],
    ['/partners/ID/keys/KEY/revoke', 'admin', { confirmed: 'on' }],
    ['/find/erase?project=acme&customer=jane', 'admin', { confirmed: 'on' }],
    ['/dead-letters/replay', 'operator', { confirmed: 'on' }],
    ['/dead-letters/discard', 'admin', { confirmed: 'on' }],
    ['/operators', 'admin', { name: 'eve', role: 'admin' }],
    ['/operators/ada-viewer/role', 'admin', { role: 'admin' }],
    ['/operators/ada-viewer/password', 'admin', { confirmed: 'on' }],
    ['/operators/ada-viewer/remove', 'admin', { confirmed: 'on' }],
  ];
  const fill = (path: string) => path.replace('ID', String(projectId)).replace('KEY', String(keyId));

  test('an erasure is queued, the page says so once, and the audit log does not name the customer', async () => {
    const path = '/find/erase?project=acme&customer=jane-doe-1';
    const sent = await sessions.admin.post(path, { confirmed: 'on' });
    expect(sent.status).toBe(303);
    const { text } = await sessions.admin.get(sent.location ?? '');
    expect(text.match(/being erased|is queued/g)).toEqual(['being erased']);
    expect(text).toContain('an erasure of ');
    expect(text).not.toContain('action="/find/erase');
    expect(await readAudit()).toEqual([
      { actor: 'ada-admin', action: 'customers erase', target: 'acme/ja…', details: null },
    ]);
  });

  test.each([
    ['acme\u00a0', 'jane-doe-3'],
    ['acme', 'line\nfeed'],
    ['acme', ' spaces '],
  ])('the form of a customer erases this customer: %j %j', async (project, customerId) => {
    await query(backend.databaseUrl, 'INSERT INTO projects (name) VALUES ($1) ON CONFLICT DO NOTHING', [project]);
    const { projectId: own = 0 } = (await store.projects.find(project)) ?? {};
    const entry = { customerId, version: 1_764_000_000_000_000, fields: { phone: PHONE } };
    await store.deadLetters.add([{ projectId: own, entry, payload: entry, error: 'refused for the test' }]);
    const page = (of: string, customer: string) => `/find?${new URLSearchParams({ project: of, customer })}`;
    const { text } = await sessions.admin.get(page(project, customerId));
    const [, action = '', inside = ''] = /action="([^"]*\/find\/erase[^"]*)">(.*?)<\/form>/s.exec(text) ?? [];
    const hidden = [...inside.matchAll(/type="hidden" name="([^"]+)" value="([^"]*)"/g)];
    // Browsers send a line feed as CR LF.
    const fields = Object.fromEntries(hidden.map(([, name, value = '']) => [name, value.replace(/\r?\n/g, '\r\n')]));
    const sent = await sessions.admin.post(action.replaceAll('&amp;', '&'), { ...fields, confirmed: 'on' });
    expect(sent).toMatchObject({ status: 303, location: page(project, customerId) });
    const isErased = async (of: string, id: string) =>
      (await sessions.admin.get(page(of, id))).text.includes('is being erased');
    const others = [project.trim(), customerId.trim().replace('\n', '\r\n')] as const;
    expect([await isErased(project, customerId), await isErased(...others)]).toEqual([true, false]);
    await store.deadLetters.discard({});
  });

  test('dead letters of one SQLSTATE are replayed with progress and become rows; others are discarded', async () => {
    const ids = Array.from({ length: 120 }, (_id, i) => `letter-${i}`);
    await addLetters(ids, '22021');
    await addLetters(['other'], '23514');
    const { operator, admin } = sessions;
    const page = (await operator.get('/dead-letters?state=22021')).text;
    expect(page).toContain('Queue 120 dead letters of all partners with SQLSTATE 22021 again.');
    const [, through = ''] = /name="through" value="(\d+)"/.exec(page) ?? [];
    await addLetters(['later'], '22021');
    const fields = { state: '22021', through, confirmed: 'on' };
    const { status, location } = await operator.post('/dead-letters/replay', fields);
    expect([status, location]).toEqual([303, '/dead-letters?state=22021']);
    const says = async (again: string, path = location ?? '') =>
      new RegExp(`, by ada-operator: 120 dead letters queued; ${again} dead letters? again so far\\.`).test(
        (await operator.get(path)).text,
      );
    await waitFor(() => says('none of them are'), { description: 'the replay to end' });
    expect([
      await says('none of them are', '/dead-letters'),
      await says('none of them are', '/dead-letters?state=23'),
    ]).toEqual([...[false, false]]);
    await addLetters(['letter-0'], '23514'); // its entry is refused again
    await waitFor(() => says('1 of them is a'), { description: 'the page to say so' });
    const worker = await startApp('worker', backend.env);
    const areStored = async () => (await store.customers.findMany(projectId, ids)).size === ids.length;
    await waitFor(areStored, { description: 'the entries to be stored' });
    await worker.stop();
    expect(await countLetters()).toBe(3);
    await admin.post('/dead-letters/discard', { state: '23514', confirmed: 'on' });
    await admin.post('/dead-letters/discard', { state: '22021', confirmed: 'on' });
    expect(await countLetters()).toBe(0);
    expect((await readAudit()).map(({ action, details }) => [action, details])).toEqual([
      ['dead-letters discard', { letters: 1, sqlState: '22021' }],
      ['dead-letters discard', { letters: 2, sqlState: '23514' }],
      ['dead-letters replay', { letters: 120, sqlState: '22021' }],
    ]);
  });

  test('the page of a dead letter says what is wrong with it, and replays or discards this one', async () => {
    const { admin } = sessions;
    await addLetters(['single-1', 'single-2', 'single-3'], '23514');
    const [third, second] = await store.deadLetters.list({ projectId }, { limit: 2 });
    const path = `/dead-letters/${second?.deadLetterId}`;
    const { text } = await admin.get(path);
    for (const part of [
      ...[`<a href="/partners/${projectId}">acme</a>`, '23514 check violation'],
      'VALUE_INVALID: our database does not accept a value, send another one',
      ...['•••: what partners sent is hidden.', 'href="/dead-letters?partner=acme"'],
    ]) {
      expect(text).toContain(part);
    }
    const fields = { partner: 'acme', letter: second?.deadLetterId ?? '', confirmed: 'on' };
    expect((await admin.post('/dead-letters/discard', fields)).location).toBe('/dead-letters?partner=acme');
    expect((await admin.get(path)).status).toBe(404);
    await admin.post('/dead-letters/replay', { ...fields, letter: third?.deadLetterId ?? '' });
    const isDone = async () =>
      (await admin.get('/dead-letters?partner=acme')).text.includes('1 dead letter queued; none of them');
    await waitFor(isDone, { description: 'the replay to end' });
    expect(await countLetters()).toBe(1);
    expect(await readAudit()).toMatchObject([
      { action: 'dead-letters replay', target: 'acme', details: { id: third?.deadLetterId } },
      { action: 'dead-letters discard', target: 'acme', details: { id: second?.deadLetterId } },
    ]);
    await store.deadLetters.discard({});
  });

  test('of two replays at once, one is refused', async () => {
    await addLetters(
      Array.from({ length: 250 }, (_id, i) => `twice-${i}`),
      '22021',
    );
    const sent = await Promise.all(
      Array.from({ length: 6 }, () => sessions.operator.post('/dead-letters/replay', { confirmed: 'on' })),
    );
    expect(sent.map(({ status }) => status).sort()).toEqual([303, 400, 400, 400, 400, 400]);
    const isDone = async () => (await sessions.operator.get('/dead-letters')).text.includes('Last replay');
    await waitFor(isDone, { description: 'the replay to end' });
    expect(await countLetters()).toBe(0);
  });

  test('the Bull dashboard is read-only for a viewer, and says why it refuses a change', async () => {
    const { viewer, operator } = sessions;
    const areReadOnly = async ({ get }: Session) => {
      const { queues } = JSON.parse((await get('/queues/api/queues')).text) as { queues: { readOnlyMode: boolean }[] };
      return [...new Set(queues.map(({ readOnlyMode }) => readOnlyMode))];
    };
    expect([await areReadOnly(viewer), await areReadOnly(operator)]).toEqual([[true], [false]]);
    for (const queueName of ['entries-0', 'maintenance']) {
      const answer = await fetch(`${app.url}/queues/api/queues/${queueName}/pause`, {
        method: 'PUT',
        headers: { cookie: viewer.cookie },
      });
      const body = { error: 'Not done', message: 'this needs the role operator' };
      expect([answer.status, await answer.json()]).toEqual([403, body]);
    }
  });

  if (queue === 'Redis') return; // the rest is the same

  test('no form does anything for a lower role, without its token, with the token of another session, or from another site', async () => {
    const readAll = async () => ({
      projects: await store.projects.list(),
      keys: await store.apiKeys.list(projectId),
      operators: await store.operators.list(),
      letters: await countLetters(),
    });
    await addLetters(['kept'], '22021');
    const before = await readAll();
    for (const [path, role, fields] of FORMS) {
      for (const lower of ROLES.slice(0, ROLES.indexOf(role))) {
        expect([path, lower, (await sessions[lower].post(fill(path), fields)).status]).toEqual([path, lower, 403]);
      }
      const csrf = /name="csrf" value="([^"]+)"/.exec((await sessions.operator.get('/')).text)?.[1] ?? '';
      for (const wrong of ['', csrf, 'x'.repeat(43)]) {
        const { status } = await sessions.admin.post(fill(path), { ...fields, csrf: wrong });
        expect([path, wrong, status]).toEqual([path, wrong, 403]);
      }
      const abroad = await sessions.admin.post(fill(path), fields, { 'sec-fetch-site': 'cross-site' });
      expect([path, abroad.status]).toEqual([path, 403]);
      expect([path, (await sessions.admin.get(`${fill(path)}?confirmed=on`)).status]).not.toEqual([path, 303]);
    }
    expect(await readAll()).toEqual(before);
    expect(await readAudit()).toEqual([]);
    await store.deadLetters.discard({});
  });

  test('a read-only console, as it is by default, shows no form that changes something and refuses all', async () => {
    const readOnly = await startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD });
    try {
      const admin = await logIn(readOnly.url, 'ada-admin');
      for (const path of [
        '/partners',
        `/partners/${projectId}`,
        '/find?project=acme&customer=jane',
        '/dead-letters',
        '/operators',
      ]) {
        const { status, text } = await admin.get(path);
        expect([path, status, text.match(/method="post" action="[^"]*"/g)]).toEqual([
          path,
          200,
          ['method="post" action="/logout"'],
        ]);
      }
      for (const [path, , fields] of FORMS) {
        expect(await admin.post(fill(path), fields)).toMatchObject({
          status: 400,
          text: expect.stringContaining('This console is read-only'),
        });
      }
      expect((await readAudit()).map(({ action }) => action)).toEqual(['login']);
    } finally {
      await readOnly.stop();
    }
  });

  test('the pages of the audit log and of the operators are for those who may read them', async () => {
    const statusesOf = (path: string) =>
      Promise.all(ROLES.map(async (role) => (await sessions[role].get(path)).status));
    expect(await statusesOf('/audit')).toEqual([403, 200, 200]);
    expect(await statusesOf('/operators')).toEqual([403, 403, 200]);
    expect((await sessions.viewer.get('/')).text).not.toMatch(/href="\/(audit|operators)"/);
    expect((await sessions.viewer.get(`/partners/${projectId}`)).text).not.toContain('action="/partners');
  });

  test('an operator pauses, resumes and limits a partner, and the next page shows it', async () => {
    const { operator } = sessions;
    const path = `/partners/${projectId}`;
    expect(await operator.post(`${path}/pause`, { confirmed: 'on' })).toMatchObject({ status: 303, location: path });
    expect((await operator.get(path)).text).toContain('paused: its requests get 403');
    await operator.post(`${path}/resume`);
    expect((await operator.get(path)).text).toContain('accepts entries');
    await operator.post(`${path}/limit`, { rate: '7', burst: '70' });
    expect(await find()).toMatchObject({ pausedAt: null, rate: 7, burst: 70 });
    await operator.post(`${path}/limit`, { rate: '', burst: '' });
    expect(await find()).toMatchObject({ rate: null, burst: null });
    const row = { actor: 'ada-operator', target: 'acme' };
    expect(await readAudit()).toEqual([
      { ...row, action: 'projects limits', details: { none: true } },
      { ...row, action: 'projects limits', details: { rate: 7, burst: 70 } },
      { ...row, action: 'projects resume', details: null },
      { ...row, action: 'projects pause', details: null },
    ]);
  });

  test.each([
    ['/partners/ID/limit', { rate: '5' }, 'give both entries per second and burst, or neither'],
    ['/partners/ID/limit', { rate: '-1', burst: '5' }, 'entries per second must be a whole number from 1 to 1,000,000'],
    ['/partners/ID/limit', { rate: '9999999', burst: '5' }, 'nothing of the partner acme was changed'],
    ['/partners/ID/pause', {}, 'tick the box to confirm'],
    ['/partners/999999/pause', {}, 'there is no such partner'],
    ['/partners/x/pause', {}, 'there is no such partner'],
    ['/partners', { name: 'acme' }, 'a partner named &quot;acme&quot; already exists'],
    ['/partners', { name: '' }, 'a partner name must have 1 to 100 characters'],
    ['/partners', { name: 'a\u0000b' }, 'name must be a text'],
    ['/partners/ID/keys/KEY/revoke', {}, 'tick the box to confirm'],
    ['/partners/ID/keys/999999/revoke', { confirmed: 'on' }, 'has no such active key'],
    ['/find/erase?project=acme', { confirmed: 'on' }, 'the customer id must NOT have fewer than 1'],
    ['/find/erase?project=nobody&customer=jane', { confirmed: 'on' }, 'there is no such partner'],
    ['/operators', { name: 'Not Valid', role: 'viewer' }, 'an operator name must have'],
    ['/operators', { name: 'bob', role: 'root' }, 'role must be one of viewer, operator, admin'],
    ['/operators', { name: 'ada-viewer', role: 'viewer' }, 'already exists'],
    ['/operators/nobody/remove', { confirmed: 'on' }, 'there is no such operator'],
    ['/operators/ada-viewer/remove', {}, 'tick the box to confirm'],
    ['/operators/ada-viewer/password', {}, 'tick the box to confirm'],
    ['/operators/ada-viewer/role', { role: 'root' }, 'role must be one of viewer, operator, admin'],
    ['/operators/ada-viewer/role', { role: 'viewer', reveal: 'on' }, 'this needs the right to see what partners sent'],
    ['/operators/ada-admin/role', { role: 'operator' }, 'ada-admin is the last admin'],
    ['/operators/ada-admin/remove', { confirmed: 'on' }, 'ada-admin is the last admin'],
    ['/partners/ID/keys', { grace: '999999' }, 'grace must be one of the choices'],
    ['/partners/ID/keys', { label: 'x'.repeat(101) }, 'a label must have at most 100 characters'],
    ['/partners/ID/keys', {}, 'tick what the key may do: write, read, erase'],
    [
      '/partners/ID/keys',
      { ...EVERYTHING, addresses: 'any' },
      '“from” must be empty, or at most 50 IP addresses and blocks',
    ],
    ['/partners/ID/keys', { ...EVERYTHING, addresses: '203.0.113.0/33', grace: '24' }, 'or at most 50 IP addresses'],
    ['/partners/9007199254740991/pause', {}, 'there is no such partner'],
    ['/partners/1.0/pause', {}, 'there is no such partner'],
    ['/dead-letters/discard', { partner: 'nobody', confirmed: 'on' }, 'there is no partner &quot;nobody&quot;'],
    ['/dead-letters/discard', { state: '2250', confirmed: 'on' }, 'the SQLSTATE must have 5 characters'],
    ['/dead-letters/discard', { error: 'jane', confirmed: 'on' }, 'you may not search the text of errors'],
    ['/dead-letters/replay', { partner: 'nobody' }, 'there is no partner'],
    ['/dead-letters/replay', {}, 'tick the box to confirm'],
    ['/dead-letters/replay', { letter: 'x', confirmed: 'on' }, 'letter must be the id of a dead letter'],
    ['/dead-letters/replay', { partner: 'acme', through: '0', confirmed: 'on' }, 'there is no dead letter of acme'],
    ['/operators', { name: 'bob', role: 'viewer', reveal: 'on' }, 'this needs the right to see what partners sent'],
    ['/reveal', {}, 'you may not see what partners sent'],
  ])('what cannot be done says why, and does nothing: %s %o', async (path, fields, why) => {
    await addLetters(['kept'], '22021');
    const letters = await countLetters();
    const { status, text } = await sessions.admin.post(fill(path), fields);
    expect([status, text.toLowerCase()]).toEqual([400, expect.stringContaining(why.toLowerCase())]);
    expect(await countLetters()).toBe(letters);
    await store.deadLetters.discard({});
  });

  test('a new key is shown once, is valid, and ends the other keys when it was told to', async () => {
    const { admin } = sessions;
    const keyIn = (text: string) => /opm_[\w-]+/.exec(text)?.[0] ?? '';
    const created = await admin.post('/partners', { name: 'made here' });
    const key = keyIn(created.text);
    const { projectId: made } = (await store.projects.find('made here')) ?? {};
    expect((await store.apiKeys.findOwners([hashApiKey(key)])).get(hashApiKey(key))?.projectId).toBe(made);
    const path = `/partners/${made}`;
    const second = keyIn((await admin.post(`${path}/keys`, { ...EVERYTHING, label: 'their new system' })).text);
    const third = keyIn((await admin.post(`${path}/keys`, { ...EVERYTHING, grace: '24' })).text);
    const page = (await admin.get(path)).text;
    for (const secret of [key, second, third]) expect(page).not.toContain(secret);
    const keys = await store.apiKeys.list(made ?? 0);
    expect(keys.map(({ label, expiresAt }) => [label, expiresAt !== null])).toEqual([
      [null, true],
      ['their new system', true],
      [null, false],
    ]);
    const rows = await readAudit();
    expect(JSON.stringify(rows)).not.toContain(second);
    expect(rows.map(({ action }) => action)).toEqual(['keys rotate', 'keys create', 'projects create']);
  });

  test('the page of a partner warns before its last key ends, and when none is valid', async () => {
    const { admin } = sessions;
    const { projectId: id } = await store.projects.create('rotated');
    const revoke = (keyId = 0) => admin.post(`/partners/${id}/keys/${keyId}/revoke`, { confirmed: 'on' });
    const read = async () => (await admin.get(`/partners/${id}`)).text;
    await admin.post(`/partners/${id}/keys`, { ...EVERYTHING, grace: '1' });
    expect(await read()).not.toContain('No key is valid');
    const [older, newer] = await store.apiKeys.list(id);
    await revoke(newer?.keyId);
    expect(await read()).toMatch(/No key is valid after <time[^>]+>[^<]+<\/time>: all requests get 401 then/);
    await revoke(older?.keyId);
    expect(await read()).toContain('No key is valid: all requests get 401');
  });

  test('a new key gets what the form says, which starts with what the newest key may do', async () => {
    const { admin } = sessions;
    const path = `/partners/${projectId}`;
    const create = (fields: Record<string, string>) => admin.post(`${path}/keys`, fields);
    const ticked = (text: string) => [...text.matchAll(/name="(write|read|erase)" checked/g)].map(([, name]) => name);
    expect(ticked((await admin.get(path)).text)).toEqual(['write', 'read', 'erase']);
    const rules = { write: 'on', read: 'on', addresses: '203.0.113.0/24 2001:DB8::1' };
    await create({ ...rules, label: 'ci' });
    const { text } = await admin.get(path);
    expect(text).toMatch(/write, read<.*>203\.0\.113\.0\/24, 2001:db8::1</);
    expect(ticked(text)).toEqual(['write', 'read']);
    expect(text).toContain('value="203.0.113.0/24, 2001:db8::1"');
    expect(text).toMatch(/Revoke “ci”, opm_[\w-]+…, of acme now/);
    await create({ grace: '1', ...rules }); // although the keys differ
    await create({ grace: '1', erase: 'on' });
    const keys = (await store.apiKeys.list(projectId)).slice(-3);
    const restricted = [
      ['write', 'read'],
      ['203.0.113.0/24', '2001:db8::1'],
    ];
    expect(keys.map(({ scopes, addresses }) => [scopes, addresses])).toEqual([
      ...[restricted, restricted],
      [['erase'], []],
    ]);
    const texts = { scopes: 'write, read', addresses: '203.0.113.0/24, 2001:DB8::1' };
    expect((await readAudit()).map(({ action, details }) => [action, details])).toEqual([
      ['keys rotate', { label: null, graceHours: 1, scopes: 'erase', addresses: 'any' }],
      ['keys rotate', { label: null, graceHours: 1, ...texts }],
      ['keys create', { label: 'ci', graceHours: null, ...texts }],
    ]);
    const many = Array.from({ length: 50 }, (__, i) => `2001:db8:aaaa:bbbb:cccc:dddd:eeee:${1_000 + i}/128`).join('\n');
    expect((await create({ read: 'on', addresses: `${many}\n::1` })).status).toBe(400);
    expect((await create({ read: 'on', addresses: many })).status).toBe(200);
  });

  test('a revoked key is no longer valid, and the next page says once that it was revoked', async () => {
    const { admin, operator } = sessions;
    const path = `/partners/${projectId}`;
    const apiKey = await store.apiKeys.issue(projectId, { label: '<b>ci' });
    const last = (await store.apiKeys.list(projectId)).at(-1)?.keyId;
    const sent = await admin.post(`${path}/keys/${last}/revoke`, { confirmed: 'on' });
    expect(sent).toMatchObject({ status: 303, location: path });
    const pages = [await operator.get(path), await admin.get('/assets/console.css'), await admin.get(path)];
    const says = (text: string) => text.includes('<p class="good" role="status">Key “&lt;b>ci” was revoked.</p>');
    expect([...pages, await admin.get(path)].map(({ text }) => says(text))).toEqual([false, false, true, false]);
    expect((await store.apiKeys.findOwners([hashApiKey(apiKey)])).size).toBe(0);
    const [{ action, details } = {}] = await readAudit();
    expect([action, details]).toEqual(['keys revoke', { keyId: last }]);
  });

  test('dead letters of one partner are shown and discarded, although another name differs only in white space', async () => {
    await query(backend.databaseUrl, 'INSERT INTO projects (name) VALUES ($1) ON CONFLICT DO NOTHING', ['acme\u00a0']);
    const { projectId: other = 0 } = (await store.projects.find('acme\u00a0')) ?? {};
    const entry = { customerId: 'jane-doe-4', version: 1_764_000_000_000_000, fields: { phone: PHONE } };
    const letter = { entry, payload: entry, error: 'refused for the test' };
    await store.deadLetters.add([
      { ...letter, projectId },
      { ...letter, projectId: other },
    ]);
    const { text } = await sessions.admin.get('/dead-letters?partner=acme%C2%A0');
    expect(text).toContain('Delete 1 dead letter of acme\u00a0 for good.');
    await sessions.admin.post('/dead-letters/discard', { partner: 'acme\u00a0', confirmed: 'on' });
    expect(await store.deadLetters.count({})).toMatchObject([{ projectId, count: 1 }]);
    await store.deadLetters.discard({});
  });

  test('a change that was refused does not look done in the audit log', async () => {
    const { admin } = sessions;
    expect((await admin.post('/partners', { name: 'acme' })).status).toBe(400);
    await admin.post(`/partners/${projectId}/limit`, { rate: '20', burst: '40' });
    await admin.post(`/partners/${projectId}/limit`, { rate: '', burst: '' });
    expect(await readAudit()).toMatchObject([
      { action: 'projects limits', details: { none: true } },
      { action: 'projects limits', details: { rate: 20, burst: 40 } },
      { action: 'projects create', outcome: 'not done' },
    ]);
    const { text } = await admin.get('/audit?target=acme');
    const plain = text.replace(/<[^>]+>/g, ' ').replace(/\s+/g, ' ');
    expect(plain).toMatch(
      / partners limits acme – no limit .* partners limits acme – 20 entries\/s, burst 40 .* partners create acme not done /,
    );
    expect((await admin.get('/audit?target=other')).text).toContain('Nothing is recorded.');
  });

  test.each([
    ['viewer', '/operators', 'This needs the role admin. You are ada-viewer, with the role viewer.'],
    ['viewer', '/audit', 'This needs the role operator.'],
    ['operator', '/operators', 'This needs the role admin.'],
  ] as const)(
    'what the role of a %s does not allow is refused on a page with the navigation: %s',
    async (role, path, why) => {
      const { status, text } = await sessions[role].get(path);
      expect([status, text]).toEqual([403, expect.stringContaining(why)]);
      expect(text).toContain('<a href="/partners">');
    },
  );

  test('what partners sent is shown only to who may see it, in the session that asked, and each view is in the audit log', async () => {
    const entry = { customerId: 'jane-doe-2', version: 1_764_000_000_000_000, fields: { phone: PHONE } };
    await store.deadLetters.add([{ projectId, entry, payload: entry, error: 'refused for the test' }]);
    const [letter] = await store.deadLetters.list({ projectId }, { limit: 1 });
    const path = `/dead-letters/${letter?.deadLetterId}`;
    await addOperator(backend.databaseUrl, { name: 'eve', role: 'viewer', mayReveal: true, password: OWN });
    const [asking, other] = await Promise.all([logIn(app.url, 'eve'), logIn(app.url, 'eve')]);
    expect((await asking.get(path)).text).not.toContain(PHONE);
    expect((await asking.get('/dead-letters')).text).not.toMatch(/jane-doe-2|>none<\/a>/); // no filter selects none
    const longest = `/find?project=acme&customer=${encodeURIComponent('顧'.repeat(255))}`;
    for (const back of [path, longest])
      expect(await asking.post('/reveal', { back })).toMatchObject({ status: 303, location: back });
    expect((await asking.get(path)).text).toContain(PHONE);
    expect((await other.get(path)).text).not.toContain(PHONE);
    expect((await sessions.admin.get(path)).text).not.toContain(PHONE);
    expect((await sessions.admin.get(path)).text).not.toContain('action="/reveal"');
    expect((await asking.get('/dead-letters?partner=acme&error=refused')).text).toContain('jane-doe-2');
    expect((await asking.get('/dead-letters?partner=nobody')).status).toBe(400);
    const leaving = new AbortController();
    for (const filter of ['partner=acme', 'error=refused']) {
      const updates = await asking.stream(`/dead-letters?${filter}`, leaving.signal);
      await waitFor(async () => updates.text().includes('event: page'), { description: 'the page' });
      expect(updates.text()).not.toContain('jane-doe-2');
      expect(updates.text().includes('1 dead letter')).toBe(filter === 'partner=acme');
    }
    leaving.abort();
    const rows = (await readAudit()).filter(({ action }) => action !== 'login');
    expect(rows).toEqual([
      { actor: 'eve', action: 'view', target: 'dead letters of acme whose error has the text', details: null },
      { actor: 'eve', action: 'view', target: `dead letter ${letter?.deadLetterId}`, details: null },
      ...Array(2).fill({ actor: 'eve', action: 'reveal', target: null, details: null }),
    ]);
    await store.deadLetters.discard({});
  });

  test('pages that are read while others change things are answered', async () => {
    const read = () =>
      Promise.all(['/', '/partners', `/partners/${projectId}`].map((path) => sessions.viewer.get(path)));
    const change = () => sessions.operator.post(`/partners/${projectId}/limit`, { rate: '7', burst: '70' });
    const pages = await Promise.all(
      Array.from({ length: 20 }, async () => [(await Promise.all([read(), change()]))[0], await read()]),
    );
    expect(new Set(pages.flat(2).map(({ status }) => status))).toEqual(new Set([200]));
  });

  test('adding a name that exists ends no session', async () => {
    await sessions.admin.post('/operators', { name: 'ada-viewer', role: 'viewer' });
    const viewer = await logIn(app.url, 'ada-viewer');
    await sessions.admin.post('/operators', { name: 'ada-viewer', role: 'viewer' });
    expect(
      (
        await query(
          backend.databaseUrl,
          'SELECT FROM operator_sessions JOIN operators o ON o.id = operator_id WHERE o.name = $1',
          ['ada-viewer'],
        )
      ).length,
    ).toBeGreaterThan(1);
    expect((await viewer.get('/')).status).toBe(200);
  });

  test('an operator is added with a password that is shown once, and removed with the sessions', async () => {
    const added = await sessions.admin.post('/operators', { name: 'grace', role: 'operator' });
    expect(added.text).toContain('<h1>Added grace (operator)</h1>');
    const [, password = ''] = /<code data-copy[^>]*>([^<]+)<\/code>/.exec(added.text) ?? [];
    const grace = await logIn(app.url, 'grace', password);
    expect((await grace.get('/audit')).status).toBe(200);
    expect((await sessions.admin.get('/operators')).text).toMatch(/grace.*operator.*no/s);
    await sessions.admin.post('/operators/grace/remove', { confirmed: 'on' });
    const isOut = async () => (await grace.get('/audit')).status === 303;
    await waitFor(isOut, { description: 'the session to end' });
  });

  test('an operator gets another role and another password, which end the sessions, and each is in the audit log', async () => {
    const { admin } = sessions;
    await addOperator(backend.databaseUrl, { name: 'linus', role: 'viewer', password: OWN });
    const before = await logIn(app.url, 'linus');
    await admin.post('/operators/linus/role', { role: 'operator' });
    expect((await admin.get('/operators')).text).toContain('linus has the role operator and may not see');
    await waitFor(async () => (await before.get('/')).status === 303, { description: 'the session to end' });
    const between = await logIn(app.url, 'linus');
    const { text } = await admin.post('/operators/linus/password', { confirmed: 'on' });
    const [, password = ''] = /<code data-copy[^>]*>([^<]+)<\/code>/.exec(text) ?? [];
    await waitFor(async () => (await between.get('/')).status === 303, { description: 'the session to end' });
    expect((await (await logIn(app.url, 'linus', password)).get('/audit')).status).toBe(200);
    const rows = await readAudit();
    expect(rows.filter(({ actor }) => actor === 'ada-admin')).toEqual([
      { actor: 'ada-admin', action: 'operators password', target: 'linus', details: null },
      {
        actor: 'ada-admin',
        action: 'operators role',
        target: 'linus',
        details: { role: 'operator', mayReveal: false },
      },
    ]);
    expect(JSON.stringify(rows)).not.toContain(password);
  });

  test('an admin who may not see what partners sent gets into no account that may, and can take the right away', async () => {
    await addOperator(backend.databaseUrl, { name: 'ruth', role: 'viewer', mayReveal: true, password: OWN });
    const { status, text } = await sessions.admin.post('/operators/ruth/password', { confirmed: 'on' });
    expect([status, text]).toEqual([400, expect.stringContaining('needs the right to see what partners sent')]);
    await sessions.admin.post('/operators/ruth/role', { role: 'operator', reveal: 'on' });
    expect(await store.operators.find('ruth')).toMatchObject({ role: 'operator', mayReveal: true });
    await sessions.admin.post('/operators/ruth/role', { role: 'operator' });
    expect(await store.operators.find('ruth')).toMatchObject({ mayReveal: false });
  });

  test.each([
    ['password', true, { confirmed: 'on' }],
    ['role', false, { role: 'operator', reveal: 'on' }],
  ])(
    'an admin without the right cannot use a form (%s) while another request changes the right',
    async (form, mayReveal, fields) => {
      const { name, role } = { name: `noa-${form}`, role: 'viewer' } as const;
      await addOperator(backend.databaseUrl, { name, role, mayReveal: !mayReveal, password: OWN });
      const session = await logIn(app.url, name);
      const other = new pg.Client({ connectionString: backend.databaseUrl });
      await other.connect();
      await other.query('BEGIN');
      await other.query('UPDATE operators SET may_reveal = $1 WHERE name = $2', [mayReveal, name]);
      const sent = sessions.admin.post(`/operators/${name}/${form}`, fields as Record<string, string>);
      await waitFor(() => isAwaited(other), { description: 'the change to wait for the other one' });
      await other.query('COMMIT');
      await other.end();
      expect(await sent).toMatchObject({
        status: 400,
        text: expect.stringContaining('Another request changed or removed'),
      });
      expect(await store.operators.find(name)).toEqual({ name, role, mayReveal });
      expect((await session.get('/')).status).toBe(200);
      await logIn(app.url, name);
      expect((await readAudit()).filter(({ outcome }) => outcome)).toMatchObject([
        { target: name, outcome: 'not done' },
      ]);
    },
  );

  test('a replay whose first read fails is interrupted', async () => {
    const cause = new Error('failed for the test');
    const deadLetters = { ...store.deadLetters, list: () => Promise.reject(cause) };
    const { findErased } = store.customers;
    const { signal } = new AbortController();
    const options = { filter: {}, shards: 1, rate: 1, onProgress: () => {}, signal };
    const done = { replayed: 0, skipped: 0, traced: 0 };
    await expect(replay({ ...options, deadLetters, findErased, queue: undefined as never })).rejects.toMatchObject({
      ...{ name: 'ReplayInterrupted', done, cause },
    });
  });

  test('an open page gets its updates until the session or the console ends, at most 10 of a session and 100 in all', async () => {
    const own = await startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD });
    await addOperator(backend.databaseUrl, { name: 'max', role: 'viewer', password: OWN });
    const max = await logIn(own.url, 'max');
    const viewers = await Promise.all(Array.from({ length: 10 }, () => logIn(own.url, 'ada-viewer')));
    const last = viewers.pop() as Session;
    const openTen = (session: Session) =>
      Promise.all(Array.from({ length: 10 }, () => session.stream(`/partners/${projectId}`)));
    const ending = await openTen(max);
    expect((await max.stream('/')).status).toBe(503);
    const staying = (await Promise.all(viewers.map(openTen))).flat();
    expect((await last.stream('/')).status).toBe(503);
    expect((await last.get('/')).status).toBe(200);
    await store.projects.setPaused(projectId, true);
    await store.operators.remove('max');
    const areUpdated = async () => staying.every(({ text }) => text().includes('paused: its requests get 403'));
    await waitFor(areUpdated, { description: 'the updates' });
    await Promise.all(ending.map(({ ended }) => ended));
    expect((await max.stream('/')).status).toBe(401);
    expect((await last.stream('/')).status).toBe(200);
    await own.stop();
    await Promise.all(staying.map(({ ended }) => ended));
    await store.projects.setPaused(projectId, false);
  });

  test('pages that close while their session is read leave no stream behind', async () => {
    const own = await startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD });
    const viewer = await logIn(own.url, 'ada-viewer');
    const locker = new pg.Client({ connectionString: backend.databaseUrl });
    await locker.connect();
    await locker.query('BEGIN; LOCK TABLE operator_sessions IN ACCESS EXCLUSIVE MODE');
    const leaving = new AbortController();
    const opened: Promise<unknown>[] = [];
    const isRead = async () => {
      opened.push(viewer.stream('/', leaving.signal).catch(() => {})); // the session is cached at first
      return isAwaited(locker);
    };
    await waitFor(isRead, { description: 'a session that is being read' });
    leaving.abort();
    await Promise.all(opened);
    await locker.query('ROLLBACK');
    await locker.end();
    await waitFor(async () => (await viewer.get('/')).status === 200, { description: 'an answer of PostgreSQL' });
    const streams = await Promise.all(Array.from({ length: 10 }, () => viewer.stream('/')));
    expect(streams.map(({ status }) => status)).toEqual(Array(10).fill(200));
    await own.stop();
  });
});
