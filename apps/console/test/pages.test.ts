import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, findChromium, query, runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';
import axe from 'axe-core';
import pg from 'pg';
import { type Browser, chromium, type Page } from 'playwright-core';
import { createConsoleApp, serveConsole } from '../src/app.js';
import { createPages } from '../src/pages/pages.js';
import { createReads } from '../src/reads.js';
import { basic, PASSWORD } from './open-dashboard.js';

/** Runs in a browser if any page writes it as markup. */
const ATTACK = '"><img src=x onerror="window.attacked=1"><script>window.attacked=1</script>';
const ATTACKS = [
  ...[
    '<script>window.attacked=1</script>',
    '"><img src=x onerror=window.attacked=1>',
    "'><svg onload=window.attacked=1>",
  ],
  ...['</title><script>window.attacked=1</script>', '</pre></textarea><script>window.attacked=1</script>'],
  ...['javascript:window.attacked=1', '<iframe srcdoc="<script>parent.attacked=1</script>">'],
  ...[
    '<a href="javascript:window.attacked=1" autofocus onfocus=window.attacked=1>x</a>',
    '--><script>window.attacked=1</script>',
  ],
  ...['&lt;script&gt;window.attacked=1&lt;/script&gt;', 'x\u2028<style>@import "//evil.example"</style>'],
  ...['{{constructor.constructor("window.attacked=1")()}}', '%3Cscript%3Ewindow.attacked=1%3C/script%3E'],
];
const PHONE = '+41 44 668 18 00';
const NO_COUNTS = {
  ...{ answered2xx: 0, answered4xx: 0, answered429: 0, answered5xx: 0, created: 0, updated: 0, erased: 0 },
  ...{ refusedInvalid: 0, refusedLimited: 0, refusedUnavailable: 0, persisted: 0, deadLetters: 0 },
};
const NO_QUEUE = { queue: undefined as never, replays: undefined as never };
const PROCESS = { host: 'host', version: '1.0.0', uptimeSeconds: 90, state: { p99Ms: 7 }, usedKeys: [] };

describe.each(BACKENDS)('the pages of the console, with the queue on %s:', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let opmConsole: TestApp;
  let acme: { projectId: number; apiKey: string };
  let attacker: { projectId: number; apiKey: string };

  const startConsole = (env: NodeJS.ProcessEnv = {}) =>
    startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD, ...env });
  const get = (path: string, { url } = opmConsole) =>
    fetch(url + path, { headers: { authorization: basic(PASSWORD) }, redirect: 'manual' });
  /** The page's text, with one space between words. */
  async function read(path: string, from = opmConsole): Promise<string> {
    const text = await (await get(path, from)).text();
    const plain = text
      .replace(/<[^>]+>/g, ' ')
      .replaceAll('&quot;', '"')
      .replaceAll('&lt;', '<')
      .replaceAll('&amp;', '&');
    return plain.replace(/\s+/g, ' ');
  }
  async function post(apiKey: string, entry: object): Promise<void> {
    const headers = { 'content-type': 'application/json', 'x-api-key': apiKey };
    const { status } = await fetch(`${ingress.url}/entry`, { method: 'POST', headers, body: JSON.stringify(entry) });
    expect([201, 202]).toContain(status);
  }
  const customer = (projectName: string, customerId: string) =>
    `/find?${new URLSearchParams({ project: projectName, customer: customerId })}`;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    acme = await store.projects.create('acme');
    attacker = await store.projects.create(ATTACK);
    const counted = await store.projects.create('counted'); // sends nothing that would change its counts
    [ingress, opmConsole] = await Promise.all([startApp('ingress', backend.env), startConsole()]);
    const worker = await startApp('worker', backend.env);
    await post(acme.apiKey, { customerId: 'stored-1', customerPhone: PHONE, customerFirstName: ATTACK });
    await post(attacker.apiKey, { customerId: ATTACK, customerPhone: ATTACK.slice(0, 64) });
    const isStored = async () => (await store.customers.find(attacker.projectId, ATTACK)) !== undefined;
    await waitFor(isStored, { description: 'the entries to be stored' });
    await worker.stop();
    await post(acme.apiKey, { customerId: 'waiting-1', customerPhone: PHONE });
    await store.deadLetters.add(
      Array.from({ length: 101 }, (_letter, i) => {
        const entry = { customerId: `dead-${i}`, version: 1_764_000_000_000_000 + i, fields: { phone: PHONE } };
        const cause = {
          error: `invalid input syntax for type inet: "${ATTACK}"`,
          sqlState: i === 0 ? '22021' : '22P02',
        };
        return { projectId: acme.projectId, entry, payload: entry, ...cause };
      }),
    );
    const counts = new Map([
      [counted.projectId, { ...NO_COUNTS, answered2xx: 1_500, created: 1_400, refusedInvalid: 30, persisted: 1_300 }],
      [attacker.projectId, { ...NO_COUNTS, answered429: 40, refusedLimited: 40 }],
    ]);
    const id = '00000000-0000-4000-8000-000000000001';
    await store.activity.report({ ...PROCESS, id, name: 'worker', pid: 7, report: 1, counts }, []);
  });
  afterAll(async () => {
    await Promise.all([ingress.stop(), opmConsole.stop()]);
    await store.close();
    await backend.drop();
  });

  test('the overview says first what is wrong, since when and what to do, as `opm status` does', async () => {
    const withoutAges = (given: string) => given.replaceAll(/\d+ (s|min)\b/g, 'some time');
    type Problem = { what: string; advice: string };
    // Read again if a process reported between the two, or was late.
    const [problems, text] = await waitFor(
      async () => {
        const { stdout } = await runOpm(['status', '--json'], backend.env);
        const shown = withoutAges(await read('/'));
        const { problems: named } = JSON.parse(stdout) as { problems: Problem[] };
        const parts = named.flatMap(({ what, advice }) => [what, advice].map(withoutAges));
        return parts.every((part) => shown.includes(part)) && ([named, shown] as const);
      },
      { description: 'the page to show the problems of `opm status`' },
    );
    expect(problems.length).toBeGreaterThan(1);
    expect(text.indexOf(problems[0]?.what ?? '')).toBeLessThan(text.indexOf('Accepted'));
    expect(text).toMatch(/Waiting 1 entry in 1 job/);
    if (queue === 'PostgreSQL') expect(text).not.toContain('Memory of the queue');
    expect(text).toMatch(/worker host 7 1\.0\.0/);
    expect(text).not.toMatch(/\bopm |docs\//); // commands and files are for a terminal
    expect(await (await get('/')).text()).toContain('<a href="/dead-letters">101</a>');
  });

  test('a customer is found with the time of each field, what is in flight, and its dead letters, masked', async () => {
    const stored = await read(customer('acme', 'stored-1'));
    expect(stored).toMatch(
      /In flight nothing.* Stored yes .* phone ••• \d{4}-.*Z firstName ••• \d{4}-.*Z lastName – –/,
    );
    expect(stored).not.toContain(PHONE);
    expect(await read(customer('acme', 'waiting-1'))).toMatch(/In flight an entry of \d{4}-.*Z Stored no /);
    const dead = await read(customer('acme', 'dead-7'));
    expect(dead).toMatch(
      /In flight nothing; the entries below are dead letters Stored no .* Newest dead letters .* 22P02/,
    );
    expect(dead).not.toContain('all accepted entries are stored');
    const unknown = await read(customer('acme', 'nobody'));
    expect(unknown).toContain('There is no customer nobody of acme');
    expect(unknown).not.toMatch(/In flight|Stored|Erase/);
    expect(await read(customer('nobody', 'stored-1'))).toContain('There is no partner "nobody".');
  });

  test('a paused queue is a problem, and its jobs are listed', async () => {
    const writable = await startConsole({ CONSOLE_READ_ONLY: 'false' });
    const act = (what: string) =>
      fetch(`${writable.url}/queues/api/queues/entries-0/${what}`, {
        method: 'PUT',
        headers: { authorization: basic(PASSWORD) },
      });
    try {
      expect((await act('pause')).status).toBe(200);
      const isShown = async () => (await read('/')).includes('Somebody paused entries-0');
      await waitFor(isShown, { description: 'the overview to read it' });
      expect(await read('/')).toMatch(/Waiting 1 entry in 1 job/);
      const answer = await get('/queues/api/queues?activeQueue=entries-0&status=waiting');
      const { queues } = (await answer.json()) as { queues: { name: string; jobs: object[]; counts: object }[] };
      const shown = queues.find(({ name }) => name === 'entries-0');
      expect([shown?.jobs.length, shown?.counts]).toEqual([1, expect.objectContaining({ waiting: 1 })]);
      const rows = await store.audit.list({}, { limit: 1 });
      expect(rows).toMatchObject([{ actor: 'admin', action: 'queues PUT', target: expect.stringContaining('/pause') }]);
    } finally {
      expect((await act('resume')).status).toBe(200);
      await writable.stop();
    }
  });

  if (queue === 'Redis') return; // the pages are the same

  test('partners are listed with their counts of the last hour, sorted by any column, and found by a part of the name', async () => {
    const rowsOf = async (path: string) => [...(await read(path)).matchAll(/(counted|"><img)/g)].map(([name]) => name);
    expect(await rowsOf('/partners?sort=accepted')).toEqual(['counted', '"><img']);
    expect(await rowsOf('/partners?sort=accepted&order=ascending')).toEqual(['"><img', 'counted']);
    expect(await rowsOf('/partners?sort=limited')).toEqual(['"><img', 'counted']);
    expect(await read('/partners?search=OUNTE')).toMatch(/ 1 partner, .* counted .* 1,400 30 0 0 1,300 /);
    expect(await read('/partners?search=nobody')).toContain('No partner matches.');
  });

  test('partners with a problem lead the list and are marked, paused ones come next and are found, and all show when they were last seen', async () => {
    const [ailing, paused] = [await store.projects.create('zz-ailing'), await store.projects.create('zz-paused')];
    await query(
      backend.databaseUrl,
      `INSERT INTO project_minutes (minute, project_id, created)
       SELECT date_trunc('minute', now()) - n * interval '1 min', $1, 1 FROM generate_series(70, 110) AS n`,
      [ailing.projectId],
    );
    await store.projects.setPaused(paused.projectId, true);
    await query(
      backend.databaseUrl,
      "INSERT INTO key_uses (key_id, used_at) SELECT id, '2026-10-02T10:12:33Z' FROM api_keys WHERE project_id = $1",
      [paused.projectId],
    );
    const isShown = async () => {
      const text = await read('/partners');
      return /zz-ailing silent .*zz-paused paused .*counted ok /.test(text) && text;
    };
    const text = await waitFor(isShown, { description: 'the list to show the problems' });
    expect(text).toMatch(/zz-paused paused 0 – (0 )+– 2026-10-02 10:12Z/);
    expect(await read('/partners?state=paused')).toMatch(/ 1 partner, .* zz-paused /);
    expect(await read('/partners?state=problem')).not.toMatch(/zz-paused|counted/);
    const isLinked = async () =>
      (await (await get('/')).text()).includes(`<a href="/partners/${paused.projectId}">zz-paused</a>`);
    await waitFor(isLinked, { description: 'the overview to name the paused partner' });
    await store.projects.setPaused(paused.projectId, false);
  });

  test("a partner's page shows its limit, pause, keys without their secrets, and dead letters by SQLSTATE", async () => {
    await store.projects.setLimit(acme.projectId, { rate: 1, burst: 100 });
    await store.projects.setPaused(acme.projectId, true);
    const isShown = async () => {
      const text = await read(`/partners/${acme.projectId}`);
      // Counts of the hour and of minutes are read, and shared for two seconds, each by itself.
      const shown =
        /1 entry\/s, burst 100 .* Last entry \d{4}-\d\d-\d\d \d\d:\d\dZ .* Within the last hour Accepted \d/;
      return shown.test(text) && text;
    };
    const text = await waitFor(isShown, { description: 'the page to show the limit and the counts of the ingress' });
    await store.projects.setPaused(acme.projectId, false);
    expect(text).toMatch(/ acme Paused since \d{4}-.* paused: its requests get 403/);
    expect(text).not.toContain('Nothing is wrong');
    expect(text).toContain(`${acme.apiKey.slice(0, 10)}…`);
    expect(text).not.toContain(acme.apiKey.slice(0, 12));
    expect(text).toMatch(/acme 22P02 VALUE_INVALID 100 \d{4}-\S+ \S+Z .* acme 22021 VALUE_INVALID 1 /);
  });

  test('an erased customer is shown as erased, with the time, in one sentence', async () => {
    const version = Date.now() * 1_000;
    const noVersions = { email: 0, phone: 0, firstName: 0, lastName: 0, ip: 0 };
    const state = {
      fields: {},
      versions: noVersions,
      erasedVersion: version,
      firstVersion: version,
      lastVersion: version,
    };
    await store.customers.upsert([{ projectId: acme.projectId, customerId: 'erased-1', state }]);
    const at = new Date(version / 1_000).toISOString().slice(0, 19).replace('T', ' ');
    const text = await read(customer('acme', 'erased-1'));
    expect(text).toContain(`Customer erased-1 of acme was erased at ${at}Z : nothing of it is stored.`);
    expect(text).not.toMatch(/In flight|Stored/);
  });

  test('dead letters are counted by partner and SQLSTATE, filtered, and listed a hundred at a time, masked', async () => {
    const first = await read('/dead-letters');
    expect(first).toMatch(
      /101 dead letters, by partner and SQLSTATE .* acme 22P02 VALUE_INVALID 100 2025-11-24 16:00:00Z 2025-11-24 16:00:00Z acme 22021 VALUE_INVALID 1 /,
    );
    expect(first).toContain('invalid input syntax for type inet •••');
    expect(first).toContain('de•••');
    const older = /href="([^"]*before=\d+)"/
      .exec(await (await get('/dead-letters')).text())?.[1]
      ?.replaceAll('&amp;', '&');
    expect(await read(older ?? '')).toContain(' 22021 ');
    expect(await read('/dead-letters?state=22021')).toMatch(/ 1 dead letter, /);
    expect(await read('/dead-letters?partner=+acme+&state=+22021')).toMatch(/ 1 dead letter, /); // as the forms read it
    expect(await read('/dead-letters?partner=acme&state=22')).toMatch(/ 101 dead letters, /);
    expect(await read('/dead-letters?partner=counted')).toContain('No dead letter.');
    const [letter] = await store.deadLetters.list({}, { limit: 1 });
    const whole = await read(`/dead-letters/${letter?.deadLetterId}`);
    expect(whole).toContain('"phone": "•••"');
    expect(whole).not.toContain(PHONE);
  });

  test('with CONSOLE_SHOW_DATA, the values are shown', async () => {
    const showing = await startConsole({ CONSOLE_SHOW_DATA: 'true' });
    try {
      expect(await read(customer('acme', 'stored-1'), showing)).toContain(PHONE);
      expect(await read('/dead-letters?error=INET', showing)).toMatch(/ 101 dead letters, .* dead-100 /);
    } finally {
      await showing.stop();
    }
  });

  test.each([
    ['/dead-letters?partner=nobody', 'There is no partner "nobody".'],
    ['/dead-letters?state=2250', 'The SQLSTATE must have 5 characters'],
    ['/dead-letters?state=%20%20x', 'The SQLSTATE must have 5 characters'],
    ['/dead-letters?error=jane', 'You may not search the text of errors'], // counts would tell what is masked
  ])('a filter that cannot be used is not left out: %s', async (path, why) => {
    expect((await get(path)).status).toBe(400);
    const text = await read(path);
    expect(text).toContain(why);
    expect(text).not.toMatch(/\d dead letter/);
  });

  test('a partner that fell silent shows when its last entry came, and its problem stands on its page, without a link to it', async () => {
    const { projectId } = await store.projects.create('silent');
    await query(
      backend.databaseUrl,
      `INSERT INTO project_minutes (minute, project_id, created)
       SELECT date_trunc('minute', now()) - n * interval '1 min', $1, 1 FROM generate_series(70, 110) AS n`,
      [projectId],
    );
    const isShown = async () => (await read('/')).includes('silent: sent entries steadily');
    await waitFor(isShown, { description: 'the overview to read it' });
    const overview = await (await get('/')).text();
    expect(overview).toContain(`<a href="/partners/${projectId}">Page of silent</a>`);
    const isOnPage = async () => (await read(`/partners/${projectId}`)).includes('1 problem silent: sent');
    await waitFor(isOnPage, { description: "the partner's page to read it" });
    expect(await read(`/partners/${projectId}`)).toMatch(
      /none since .* Ask the partner, .* Last entry \d{4}-\d\d-\d\d \d\d:\d\dZ Last request none /,
    );
    expect(await (await get(`/partners/${projectId}`)).text()).not.toContain('Page of silent');
  });

  test('without the password, no page is shown', async () => {
    for (const path of ['/', '/partners', '/find', '/dead-letters', '/audit', '/operators']) {
      expect([path, (await fetch(opmConsole.url + path)).status]).toEqual([path, 401]);
    }
  });

  test.each([
    ...['/partners/0', '/partners/x', '/partners/1e0', '/dead-letters/0', '/dead-letters/x', '/partners/%00'],
    ...['/nowhere', '/assets/../../package.json', '/assets/%2e%2e/package.json', '/dead-letters/99999999999999999999'],
  ])('an unknown path is 404: %s', async (path) => {
    expect((await get(path)).status).toBe(404);
  });

  test('the page of a dead letter that is gone says what may have become of it, and a masked id that it is masked', async () => {
    const { status } = await get('/dead-letters/999999');
    expect([status, await read('/dead-letters/999999')]).toEqual([
      404,
      expect.stringContaining('It was replayed, discarded or erased'),
    ]);
    expect(await read(customer('acme', 'dead-•••'))).toContain('This id is masked. Give the whole one.');
  });

  test.each<[string, string?]>([
    ['page=0'],
    ['page=-1'],
    ['page=1e99'],
    ['page=x'],
    ['sort=x'],
    ['sort=constructor'],
    ['order=x'],
    ['search=%00'],
    ['page=1&page=2'],
    ['a long text', `search=${'x'.repeat(1_000)}`],
  ])('a parameter that is not valid is ignored: %s', async (name, parameters = name) => {
    expect((await get(`/partners?${parameters}`)).status).toBe(200);
    expect((await get(`/dead-letters?before=${parameters}`)).status).toBe(200);
    expect((await get(`/find?project=acme&customer=${parameters}`)).status).toBe(200);
  });

  test('however many pages are read or updated at the same time, PostgreSQL is asked once', async () => {
    let asked = 0;
    const counting = { ...store, now: () => store.now().finally(() => asked++) };
    const reads = createReads({ store: counting, queue: undefined as never, shards: 1 });
    await Promise.all(Array.from({ length: 100 }, reads.allMinutes));
    expect(asked).toBe(1);
  });

  test("what PostgreSQL took long to read of the partners' counts is shared for 50 times as long", async () => {
    const [asked, tookMs]: [number[], number] = [[], 60];
    async function projects(since: Date) {
      asked.push(performance.now());
      await waitFor(() => performance.now() > (asked.at(-1) ?? 0) + tookMs, { description: 'a slow answer' });
      return store.activity.projects(since);
    }
    const slow = { ...store, activity: { ...store.activity, projects } };
    const reads = createReads({ store: slow, queue: undefined as never, shards: 1 });
    const readAgain = () => reads.status().then(() => asked.length > 1);
    await waitFor(readAgain, { description: 'a second read' });
    const [first = 0, second = 0] = asked;
    expect(second - first).toBeGreaterThan(50 * tookMs);
  });

  test('the charts begin with a whole minute', async () => {
    const asked: Date[] = [];
    const minutes = async (since: Date) => {
      asked.push(since);
      return [];
    };
    const now = async () => new Date('2026-10-02T10:12:33Z');
    const timed = { ...store, now, activity: { ...store.activity, minutes } };
    const reads = createReads({ store: timed, queue: undefined as never, shards: 1 });
    await Promise.all([reads.allMinutes(), reads.minutesOf(1)]);
    expect(asked).toEqual(Array(2).fill(new Date('2026-10-02T07:12:00Z')));
  });

  test('a partner shows entries that wait for longer than its counts of an hour, and no number if the queue does not answer', async () => {
    const { projectId } = await store.projects.create('zz-quiet');
    const readWith = async (readProjectBacklogs: () => Promise<object>) => {
      const reads = createReads({ store, queue: { readProjectBacklogs } as never, shards: 1 });
      const pages = createPages({ ...{ store, reads, shards: 1, showData: false }, ...NO_QUEUE });
      const app = createConsoleApp({ queues: [], store, password: PASSWORD, pages });
      const server = await serveConsole({ app, port: 0, host: '127.0.0.1' });
      const at = { ...opmConsole, url: `http://127.0.0.1:${server.port}` };
      const texts = [await read('/partners?search=zz-quiet', at), await read(`/partners/${projectId}`, at)];
      await server.close();
      return texts;
    };
    const waiting = new Map([[projectId, { entries: 1_500, oldestMs: 7_200_000 }]]);
    expect(await readWith(async () => waiting)).toEqual([
      expect.stringMatching(/ zz-quiet ok 0 – (0 ){6}1,500 2 h – /),
      expect.stringMatching(/ Waiting \(sampled\) about 1,500 Oldest entry 2 h /),
    ]);
    expect(await readWith(async () => new Map())).toEqual([
      expect.stringMatching(/ zz-quiet ok 0 – (0 ){7}– – /),
      expect.stringMatching(/ Waiting \(sampled\) about 0 Oldest entry none /),
    ]);
    expect(await readWith(() => Promise.reject(new Error('failed for the test')))).toEqual([
      expect.stringMatching(/ zz-quiet ok 0 – (0 ){6}– – – /),
      expect.stringMatching(/ Waiting \(sampled\) the queue does not answer Oldest entry – /),
    ]);
  });

  test('the overview shows what waited, how old it was, and the p99, at their worst in each minute since the console started', async () => {
    let now = Math.floor(Date.now() / 60_000) * 60_000;
    let [waiting, p99Ms] = [{ entries: 7, oldestMs: 3_000 }, 2];
    const processes = async () => [{ ...PROCESS, id: '', name: 'worker', pid: 7, silentSeconds: 0, state: { p99Ms } }];
    const reads = createReads({
      store: { ...store, now: async () => new Date(now), activity: { ...store.activity, processes } },
      queue: { load: async () => waiting, readBacklog: async () => waiting } as never,
      shards: 1,
    });
    const pages = createPages({ ...{ store, reads, shards: 1, showData: false }, ...NO_QUEUE });
    const app = createConsoleApp({ queues: [], store, password: PASSWORD, pages });
    const server = await serveConsole({ app, port: 0, host: '127.0.0.1' });
    const readOverview = () => {
      reads.onChanged(); // or it would share what it read before
      return read('/', { ...opmConsole, url: `http://127.0.0.1:${server.port}` });
    };
    await reads.refresh();
    [waiting, p99Ms] = [{ entries: 5, oldestMs: 4_000 }, 1_500];
    await reads.refresh();
    const at = `at ${new Date(now).toISOString().slice(11, 16)}Z`;
    expect(await readOverview()).toMatch(/waiting: – /); // the minute is not over
    now += 60_000;
    const text = await readOverview();
    for (const worst of ['waiting: 7, peak 7', 'oldest: 4 s, peak 4 s', 'to the row: 1,500 ms, peak 1,500 ms']) {
      expect(text).toContain(`${worst} ${at}`);
    }
    expect(text).toContain('to the acknowledgement: – ');
    now += 60_000;
    expect(await readOverview()).toContain(`waiting: –, peak 7 ${at}`);
    now += 3 * 3_600_000;
    await reads.refresh();
    expect(reads.health().map(({ minute }) => minute.getTime())).toEqual([now]);
    await server.close();
  });

  test('the audit log lists two hundred rows, and older ones on the next page', async () => {
    await query(
      backend.databaseUrl,
      `INSERT INTO audit_log (actor, source, action, target, at)
       SELECT 'eve', 'cli', 'projects pause', 'row-' || n, now() + n * interval '1 ms' FROM generate_series(1, 250) AS n`,
    );
    const rowsOf = (text: string) => [...text.matchAll(/ row-(\d+) /g)].map(([, n]) => Number(n));
    const descending = (from: number, to: number) => Array.from({ length: from - to + 1 }, (_, i) => from - i);
    expect(rowsOf(await read('/audit?actor=eve'))).toEqual(descending(250, 51));
    const [, older = ''] = /href="([^"]*before=\d+)"/.exec(await (await get('/audit?actor=eve')).text()) ?? [];
    expect(rowsOf(await read(older.replaceAll('&amp;', '&')))).toEqual(descending(50, 1));
    expect(await (await get(older.replaceAll('&amp;', '&'))).text()).not.toContain('before=');
  });

  describe('in a browser,', () => {
    let browser: Browser;
    let showing: TestApp;
    beforeAll(async () => {
      showing = await startConsole({ CONSOLE_SHOW_DATA: 'true', CONSOLE_READ_ONLY: 'false' });
      await store.operators.add({ name: 'ada', role: 'viewer', mayReveal: true, password: PASSWORD });
      browser = await chromium.launch({ executablePath: await findChromium() });
    }, 600_000);
    afterAll(() => Promise.all([browser?.close(), showing.stop()]));

    const paths = () => [
      ...['/', '/partners', `/partners/${attacker.projectId}`, '/dead-letters', '/audit', '/operators', '/login'],
      ...[customer(ATTACK, ATTACK), customer('acme', 'dead-7'), customer('acme', 'erased-1'), '/dead-letters/1'],
    ];

    /** @returns what the browser reported as errors while `use` ran */
    async function withPage(
      options: { colorScheme?: 'light' | 'dark'; width?: number; javaScriptEnabled?: boolean },
      use: (page: Page) => Promise<void>,
    ): Promise<string[]> {
      const { width = 1_280, ...others } = options;
      const page = await browser.newPage({
        extraHTTPHeaders: { authorization: basic(PASSWORD) },
        viewport: { width, height: 800 },
        ...others,
      });
      page.setDefaultTimeout(60_000);
      const errors: string[] = [];
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type())) errors.push(message.text());
      });
      page.on('pageerror', ({ message }) => errors.push(message));
      page.on('request', (request) => {
        const { origin } = new URL(request.url());
        if (![opmConsole.url, showing.url, 'null'].includes(origin)) errors.push(request.url());
      });
      await use(page);
      await page.close();
      return errors;
    }

    // The layout depends on the width, and the colors on the scheme: two of the four pairs show each of them.
    test.each([
      { colorScheme: 'light', width: 1_280 },
      { colorScheme: 'dark', width: 390 },
    ] as const)('every page meets WCAG AA and fits the screen: %o', async (screen) => {
      const errors = await withPage(screen, async (page) => {
        for (const path of [...paths(), '/find']) {
          await page.goto(showing.url + path);
          await page.evaluate('for (const part of document.querySelectorAll("details")) part.open = true');
          await page.evaluate(axe.source);
          const { violations } = (await page.evaluate(
            "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })",
          )) as axe.AxeResults;
          expect({ path, violations: violations.map(({ id, nodes }) => [id, nodes[0]?.html]) }).toEqual({
            path,
            violations: [],
          });
          expect([path, await page.evaluate('document.documentElement.scrollWidth')]).toEqual([path, screen.width]);
          const cutOff =
            '[...document.querySelectorAll(".scroll")].filter((part) => part.scrollWidth > part.clientWidth).length';
          expect([path, await page.evaluate(cutOff)]).toEqual([path, 0]);
        }
      });
      expect(errors).toEqual([]);
    });

    test('what partners send is text on every page, never markup, and no page loads anything from another host', async () => {
      const errors = await withPage({}, async (page) => {
        let shown = 0;
        for (const path of paths()) {
          await page.goto(opmConsole.url + path);
          expect([path, await page.evaluate('window.attacked')]).toEqual([path, undefined]);
          expect([path, await page.locator('main img, main script').count()]).toEqual([path, 0]);
          if ((await page.locator('main').textContent())?.includes(ATTACK.slice(0, 12))) shown++;
        }
        expect(shown).toBeGreaterThan(1);
      });
      expect(errors).toEqual([]);
    });

    test.each(ATTACKS)('in every field that a partner or an operator can set, this is text: %s', async (attack) => {
      const { projectId, apiKey } = await store.projects.create(attack);
      await store.apiKeys.issue(projectId, { label: attack });
      const short = attack.slice(0, 64);
      const fields = { email: attack, phone: short, firstName: attack, lastName: attack, ip: short };
      await store.deadLetters.add([
        {
          projectId,
          entry: { customerId: attack, version: 1, fields },
          payload: { customerId: attack, version: 1, fields },
          error: attack,
        },
        { payload: { [attack]: attack }, error: `value too long for type ${attack}` },
      ]);
      await store.audit.record({
        actor: attack,
        source: 'cli',
        action: attack,
        target: attack,
        details: { [attack]: attack },
      });
      await post(apiKey, {
        customerId: attack,
        customerEmail: attack,
        customerPhone: short,
        customerFirstName: attack,
      });
      const letters = await store.deadLetters.list({}, { limit: 2 });
      const errors = await withPage({}, async (page) => {
        for (const path of [
          ...[`/partners/${projectId}`, customer(attack, attack)],
          ...letters.map(({ deadLetterId }) => `/dead-letters/${deadLetterId}`),
          ...['partners?search', 'dead-letters?error', 'audit?actor'].map(
            (form) => `/${form}=${encodeURIComponent(attack)}`,
          ),
        ]) {
          await page.goto(showing.url + path);
          await expectNoMarkup(page, path);
        }
      });
      expect(errors).toEqual([]);
    });

    test('all of these fields together are text in the lists, and on the overview', async () => {
      const errors = await withPage({}, async (page) => {
        for (const path of ['/partners', '/dead-letters', '/audit']) {
          const areListed = async () => {
            await page.goto(showing.url + path);
            const text = (await page.locator('main').textContent()) ?? '';
            return ATTACKS.every((attack) => text.includes(attack));
          };
          await waitFor(areListed, { description: `${path} to list all of them` });
          await expectNoMarkup(page, path);
        }
        await page.goto(showing.url);
        await expectNoMarkup(page, '/');
      });
      expect(errors).toEqual([]);
    });

    async function expectNoMarkup(page: Page, path: string): Promise<void> {
      expect([path, await page.evaluate('window.attacked')]).toEqual([path, undefined]);
      const isMarkup = 'main :is(img, script, iframe, style, math), main svg:not([role]), a[href^="javascript:"]';
      expect([path, await page.locator(isMarkup).count()]).toEqual([path, 0]);
    }

    test('without TLS, a browser on another host can log in, change something and log out', async () => {
      const writable = await startConsole({ CONSOLE_READ_ONLY: 'false' });
      // Browsers trust 127.0.0.1 more than other hosts: only there they send Sec-Fetch-Site without TLS.
      const args = ['--host-resolver-rules=MAP console.example 127.0.0.1'];
      const other = await chromium.launch({ executablePath: await findChromium(), args });
      try {
        const page = await other.newPage();
        page.setDefaultTimeout(60_000);
        await page.goto(`http://console.example:${new URL(writable.url).port}/partners/${acme.projectId}`);
        await page.getByLabel('Name').fill('admin');
        await page.getByLabel('Password').fill(PASSWORD);
        await page.getByRole('button', { name: 'Log in' }).click();
        await page.getByRole('heading', { name: 'acme' }).waitFor();
        await page.getByLabel('Pause acme').check();
        await page.getByRole('button', { name: 'Pause' }).click();
        await page.getByText('paused: its requests get 403').waitFor();
        await page.getByRole('button', { name: 'Resume' }).click();
        await page.getByText('accepts entries').waitFor();
        await page.getByRole('button', { name: 'Log out' }).click();
        await page.getByRole('button', { name: 'Log in' }).waitFor();
      } finally {
        await other.close();
        await writable.stop();
      }
    });

    test('the pages work without JavaScript', async () => {
      await withPage({ javaScriptEnabled: false }, async (page) => {
        await page.goto(opmConsole.url);
        await page.getByRole('img', { name: /^Entries per second, last three hours\. accepted: / }).waitFor();
        await page.getByRole('link', { name: 'Find', exact: true }).click();
        await page.getByLabel('Partner').fill('acme');
        await page.getByLabel('Customer id').fill('waiting-1');
        await page.getByRole('button', { name: 'Find' }).click();
        await page.getByText('an entry of').waitFor();
      });
      // Chromium without scripts, as this test drives it, still hides what is in <noscript>.
      const needs = '<noscript><p>Queues is the Bull dashboard, which needs JavaScript. <a href="/">';
      expect(await (await get('/queues')).text()).toContain(needs);
    });

    test('the Bull dashboard shows why a change was refused', async () => {
      const page = await browser.newPage();
      page.setDefaultTimeout(60_000);
      await page.goto(`${showing.url}/queues`);
      await page.getByLabel('Name').fill('ada');
      await page.getByLabel('Password').fill(PASSWORD);
      // As in the page of an operator who is made a viewer meanwhile.
      await page.route('**/queues/api/queues?*', async (route) => {
        const answer = await route.fetch();
        await route.fulfill({
          response: answer,
          body: (await answer.text()).replaceAll('"readOnlyMode":true', '"readOnlyMode":false'),
        });
      });
      await page.getByRole('button', { name: 'Log in' }).click();
      await page.locator('[class*="headerContext-"] button:has(.lucide-ellipsis-vertical)').first().click();
      await page.getByRole('menuitem', { name: 'Pause' }).click();
      await page.getByRole('button', { name: 'Confirm' }).click();
      await page.getByText('this needs the role operator').waitFor();
      await page.unrouteAll({ behavior: 'ignoreErrors' });
      await page.close();
    });

    test('an open page shows changes by itself', async () => {
      const errors = await withPage({}, async (page) => {
        await page.goto(`${opmConsole.url}/partners/${acme.projectId}`);
        await page.getByText('accepts entries').waitFor();
        await store.projects.setPaused(acme.projectId, true);
        await page.getByText('paused: its requests get 403').waitFor();
        await store.projects.setPaused(acme.projectId, false);
      });
      expect(errors).toEqual([]);
    });

    test('an open page says since when it was not updated while the keyboard points into what changed', async () => {
      const errors = await withPage({}, async (page) => {
        await page.goto(`${opmConsole.url}/partners?search=acme`);
        const table = page.getByRole('region', { name: /counts of the last hour/ });
        // The test before paused it, and what pages read is shared for two seconds.
        await table.getByText('paused').waitFor({ state: 'detached' });
        // An update may replace the table at this moment, and the old one takes the focus away with it.
        const hasFocus = async () => {
          await table.focus();
          return page.evaluate<boolean>("document.activeElement.matches('.scroll')");
        };
        await waitFor(hasFocus, { description: 'the focus in the table' });
        await store.projects.setPaused(acme.projectId, true);
        await page.getByText(/^Not updated since \d\d:\d\d:\d\dZ\.$/).waitFor();
        await table.blur();
        await table.getByText('paused').waitFor();
        await page.getByText('Not updated since').waitFor({ state: 'detached' });
        await store.projects.setPaused(acme.projectId, false);
      });
      expect(errors).toEqual([]);
    });
  });
});

test('10,000 partners are listed a hundred at a time', async () => {
  const [[, createBackend]] = BACKENDS as [(typeof BACKENDS)[number]];
  const backend = await createBackend();
  await query(
    backend.databaseUrl,
    "INSERT INTO projects (name) SELECT 'partner ' || n FROM generate_series(1, 10000) AS n",
  );
  const opmConsole = await startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD });
  try {
    const read = async (path: string) =>
      (await fetch(opmConsole.url + path, { headers: { authorization: basic(PASSWORD) } })).text();
    const first = await read('/partners?sort=name&order=ascending');
    expect(first).toContain('10,000 partners');
    expect(first.match(/<tr>/g)).toHaveLength(101);
    expect(await read('/partners?sort=name&order=ascending&page=100')).toContain('>partner 9999</a>');
    expect(await read('/partners?search=partner+77')).toContain('111 partners');
  } finally {
    await opmConsole.stop();
    await backend.drop();
  }
});

test("pages do not wait while a slow read of the partners' counts is repeated", async () => {
  const [[, createBackend]] = BACKENDS as [(typeof BACKENDS)[number]];
  const backend = await createBackend();
  await query(backend.databaseUrl, "INSERT INTO projects (name) VALUES ('acme')");
  const locker = new pg.Client({ connectionString: backend.databaseUrl });
  await locker.connect();
  const lock = () => locker.query('BEGIN; LOCK TABLE project_minutes IN ACCESS EXCLUSIVE MODE');
  const isWaitingFor = (ms: number) => async () => {
    const waiting = await query(
      backend.databaseUrl, // not `locker`: within a transaction, pg_stat_activity does not change
      `SELECT pid FROM pg_stat_activity
       WHERE application_name = 'opm-console' AND datname = current_database() AND wait_event_type = 'Lock'
         AND clock_timestamp() - query_start > ${ms} * interval '1 ms'`,
    );
    return waiting.length > 0;
  };
  await lock();
  const opmConsole = await startApp('console', { ...backend.env, CONSOLE_PASSWORD: PASSWORD });
  try {
    const read = async () => fetch(`${opmConsole.url}/partners`, { headers: { authorization: basic(PASSWORD) } });
    await waitFor(isWaitingFor(300), { description: 'a slow read' });
    await locker.query('COMMIT');
    expect((await read()).status).toBe(200);
    await lock();
    await waitFor(isWaitingFor(0), { description: 'the next read' });
    const shown = await read();
    expect(await isWaitingFor(0)()).toBe(true);
    expect(shown.status).toBe(200);
    expect(await shown.text()).toContain('>acme</a>');
  } finally {
    await locker.end();
    await opmConsole.stop();
    await backend.drop();
  }
});

test('if PostgreSQL is down, the overview says so, and the other pages say what to do', async () => {
  const [[, createBackend]] = BACKENDS as [(typeof BACKENDS)[number]];
  const backend = await createBackend();
  const databaseUrl = 'postgresql://opm:opm@127.0.0.1:1/opm';
  const opmConsole = await startApp('console', {
    ...backend.env,
    DATABASE_URL: databaseUrl,
    CONSOLE_PASSWORD: PASSWORD,
  });
  try {
    const get = async (path: string) => {
      const answer = await fetch(opmConsole.url + path, { headers: { authorization: basic(PASSWORD) } });
      return { status: answer.status, text: await answer.text() };
    };
    expect(await get('/')).toEqual({ status: 200, text: expect.stringContaining('PostgreSQL cannot be read') });
    expect(await get('/partners')).toEqual({
      status: 503,
      text: expect.stringContaining('PostgreSQL does not answer'),
    });
  } finally {
    await opmConsole.stop();
    await backend.drop();
  }
});
