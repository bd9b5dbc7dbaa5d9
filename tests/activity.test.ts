import { hostname } from 'node:os';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, query, runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';

/** In a container, the pid says nothing outside, so there is no command. */
const FROZEN_HELP = /^[0-9a-f]{12}$/.test(hostname())
  ? /^docs\/status\.md#a-process-does-not-report$/
  : /^ps -o pid,stat,etime,args -p \d+ \(docs\/status\.md#a-process-does-not-report\)$/;

const HOUR_MS = 3_600_000;

type Partner = { projectId: number; name: string; apiKey: string };

describe.each(BACKENDS)('opm status and opm projects stats, with the queue on %s:', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let workers: TestApp[];
  let acme: Partner;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    acme = await store.projects.create('acme');
    ingress = await startApp('ingress', backend.env);
    workers = await Promise.all([startApp('worker', backend.env), startApp('worker', backend.env)]);
  });
  afterAll(async () => {
    await Promise.all([ingress, ...workers].map((app) => app.stop()));
    await store.close();
    await backend.drop();
  });

  const send = async ({ apiKey }: Partner, method: string, path: string, body?: unknown, headers = {}) => {
    const response = await fetch(ingress.url + path, {
      method,
      headers: { 'x-api-key': apiKey, 'content-type': 'application/json', ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    await response.arrayBuffer();
    return response.status;
  };
  const toEntry = (customerId: number | string, customerEmail = 'a@example.com') => ({ customerId, customerEmail });
  const status = async () => {
    const { code, stdout, stderr } = await runOpm(['status', '--json'], backend.env);
    const { problems, ...rest } = JSON.parse(stdout);
    // The Redis of the tests has no append-only file, and status says so.
    const others = problems.filter(({ what }: { what: string }) => !what.includes('no append-only file'));
    return { code: others.length > 0 ? code : 0, stderr, problems: others, ...rest };
  };
  /** Counts of the last hour, which `opm projects stats` prints. Each of its processes would cost a second. */
  const countsOf = async (name: string) =>
    (await store.activity.projects(new Date(Date.now() - HOUR_MS))).find((own) => own.name === name);
  const statsOf = async (name: string) => {
    const { stdout } = await runOpm(['projects', 'stats', name, '--json'], backend.env);
    return JSON.parse(stdout)[0];
  };

  /** What `opm projects stats` shows of one project on a terminal, by column. */
  const columnsOf = async (name: string) => {
    const { stdout } = await runOpm(['projects', 'stats', name], backend.env);
    const rows = stdout.trimEnd().split('\n').slice(2);
    return Object.fromEntries(rows.map((row) => row.split(/ {2,}/)));
  };

  test('if all is well, status says so, lists the processes and exits with 0', async () => {
    const names = async () => (await store.activity.processes()).map(({ name }) => name);
    await waitFor(async () => (await names()).length === 3, { description: 'the first reports' });
    expect(await status()).toMatchObject({
      ...{ code: 0, stderr: '', problems: [], deadLetters: 0 },
      processes: [{ name: 'ingress' }, { name: 'worker' }, { name: 'worker' }],
      queue: { entries: 0, jobs: 0, idle: [] },
    });
    const { stdout } = await runOpm(['status'], backend.env);
    expect(stdout).toMatch(
      /^(Nothing is wrong\.|1 problem:\n {2}The queue's store: Redis has no append-only file .*)\n/,
    );
    expect(stdout).toContain('accepted 0/s, refused 0/s, persisted 0/s (last minute)');
    if (queue === 'PostgreSQL') expect(stdout).not.toContain('memory of the queue');
  });

  test('every answer and every entry is counted once: a repeat under an idempotency key is a request, but no entry', async () => {
    const key = { 'idempotency-key': 'once' };
    const statuses = [
      await send(acme, 'POST', '/entry', toEntry(1)),
      await send(acme, 'POST', '/entry', toEntry(1, 'b@example.com')),
      await send(acme, 'POST', '/entry', { customerId: 2 }),
      await send(acme, 'POST', '/entry', toEntry(3), key),
      await send(acme, 'POST', '/entry', toEntry(3), key),
      await send(acme, 'POST', '/entries', [toEntry(4), { customerId: 5 }, toEntry(4)]),
      await send(acme, 'POST', '/entries', [{ customerId: 6 }, { customerId: 7 }]),
      await send(acme, 'DELETE', '/entry/1'),
      await send(acme, 'DELETE', '/entry/nobody'),
      await send(acme, 'GET', '/entry/4'),
      await send(acme, 'GET', '/entry/nobody'),
      await send(acme, 'PUT', '/entry'),
    ];
    expect(statuses).toEqual([201, 202, 400, 201, 201, 207, 207, 202, 404, 200, 404, 405]);
    // The ingress and the workers report at different times.
    const isReported = async () => {
      const counts = await countsOf('acme');
      return counts?.persisted === 7 && counts.answered2xx + counts.answered4xx === statuses.length;
    };
    await waitFor(isReported, { description: 'the counts of ingress and workers' });
    expect(await statsOf('acme')).toMatchObject({
      ...{ projectId: acme.projectId, name: 'acme', limit: null },
      ...{ answered2xx: 8, answered4xx: 4, answered429: 0, answered5xx: 0 },
      ...{ created: 3, updated: 2, erased: 1 },
      ...{ refusedInvalid: 4, refusedLimited: 0, refusedUnavailable: 0 },
      ...{ persisted: 7, deadLetters: 0, backlog: { entries: 0, oldestMs: 0 } },
    });
    const [used] = await store.apiKeys.list(acme.projectId);
    expect(used?.lastUsedAt).not.toBeNull();
    const { stdout } = await runOpm(['projects', 'stats'], backend.env);
    expect(stdout).toMatch(/^Since \S+Z:\nproject .*\nacme /);
    const counted = 'opm_project_entries_total{project="acme",outcome="created"}';
    await waitFor(async () => (await ingress.readMetric(counted)) === 3, { description: 'the metric' });
  });

  // Counts and reports are in PostgreSQL with either queue.
  if (queue === 'Redis') {
    test('status names the partner over its limit, the one with poison, the silent one and the frozen worker', async () => {
      const [limited, poison, silent] = (await Promise.all(
        ['over its limit', 'poison', 'silent'].map((name) => store.projects.create(name)),
      )) as [Partner, Partner, Partner];
      await store.projects.setLimit(limited.projectId, { rate: 1, burst: 1 });
      await query(backend.databaseUrl, "ALTER TABLE customers ADD CHECK (email <> 'poison@example.com')");
      await query(
        backend.databaseUrl,
        `INSERT INTO project_minutes (minute, project_id, created)
         SELECT date_trunc('minute', now()) - i * interval '1 min', $1, 1 FROM generate_series(61, 120) AS i`,
        [silent.projectId],
      );
      const isLimited = async () => (await send(limited, 'POST', '/entry', toEntry(1))) === 429;
      await waitFor(isLimited, { description: 'the limit' });
      const batches: number[] = [];
      const isBatchLimited = async () => {
        batches.push(await send(limited, 'POST', '/entries', [{ customerId: 1 }, toEntry(2)]));
        return batches.at(-1) === 429;
      };
      await waitFor(isBatchLimited, { description: 'a batch above the limit' });
      expect(await send(poison, 'POST', '/entry', toEntry(1, 'poison@example.com'))).toBe(201);
      await waitFor(async () => (await countsOf('poison'))?.deadLetters === 1, { description: 'the dead letter' });
      // In a batch that is answered 429, the invalid entry counts as invalid. A slow machine may answer some with 503.
      const read = batches.filter((answered) => answered !== 503).length;
      const isCounted = async () => ((await countsOf('over its limit'))?.refusedInvalid ?? 0) >= read;
      await waitFor(isCounted, { description: 'the refusals' });
      const [frozen] = workers as [TestApp];
      process.kill(frozen.pid, 'SIGSTOP');
      const isSilent = async () =>
        (await store.activity.processes()).some(({ pid, silentSeconds }) => pid === frozen.pid && silentSeconds >= 20);
      await waitFor(isSilent, { description: 'the frozen worker to miss reports' });
      const isNamed = async () => {
        const { code, problems } = await status();
        expect(code).toBe(1);
        return problems.length === 4 ? problems : undefined;
      };
      const problems = await waitFor(isNamed, { description: 'all four problems' });
      process.kill(frozen.pid, 'SIGCONT');
      expect(problems).toEqual([
        {
          what: expect.stringMatching(
            new RegExp(
              `^The worker with pid ${frozen.pid} on .* has not reported since \\d\\d:\\d\\d UTC \\(\\d\\d s\\):`,
            ),
          ),
          advice: 'Restart it on its host, unless another one has replaced it. No accepted entry is lost.',
          help: expect.stringMatching(FROZEN_HELP),
        },
        {
          what: expect.stringMatching(
            /^over its limit: \d+ of \d+ entries refused with 429 (at|since) \d\d:\d\d UTC.*\. It sends \d+\/s, and its limit is 1\/s now\.$/,
          ),
          advice: expect.stringMatching(/^(Raise the limit, or|If you have raised the limit)/),
          help: "opm projects stats 'over its limit' (docs/status.md#a-partner-is-over-its-limit)",
          ...{ projectId: limited.projectId, name: 'over its limit', kind: 'over its limit' },
        },
        {
          what: expect.stringMatching(/^poison: 1 of 1 entry became dead letters at \d\d:\d\d UTC\.$/),
          advice: expect.stringMatching(/ replay them\.$/),
          help: 'opm dead-letters list --limit 5 --project=poison (docs/status.md#a-partners-entries-become-dead-letters)',
          ...{ projectId: poison.projectId, name: 'poison', kind: 'dead letters', page: 'dead letters' },
        },
        {
          what: expect.stringMatching(/^silent: sent entries steadily, and none since \d\d:\d\d UTC \(6\d min\)\.$/),
          advice: 'Ask the partner, and check that its keys are valid.',
          help: 'opm keys list silent (docs/status.md#a-partner-fell-silent)',
          ...{ projectId: silent.projectId, name: 'silent', kind: 'silent' },
        },
      ]);

      expect(await columnsOf('over its limit')).toMatchObject({
        ...{ project: 'over its limit', dead: '0', limited: expect.stringMatching(/^[1-9]\d*$/) },
        ...{ waiting: expect.stringMatching(/^~\d+$/), oldest: expect.stringMatching(/^\d+ (s|min)$/) },
        ...{ 'sent/s': expect.stringMatching(/^\d+\.\d$/), 'of limit': expect.stringMatching(/^\d+ %$/) },
        'last seen': expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\dZ$/),
      });
      expect(await columnsOf('poison')).toMatchObject({ dead: '1', limited: '0', 'of limit': '-' });
    });

    test('status shows latencies of the last seconds, what waits and the number of dead letters', async () => {
      const measured = await store.projects.create('measured');
      const areReported = async () => {
        await send(measured, 'POST', '/entry', toEntry(1));
        const reported = (await store.activity.processes()).filter(({ state }) => state.p99Ms !== undefined);
        return ['ingress', 'worker'].every((process) => reported.some(({ name }) => name === process));
      };
      await waitFor(areReported, { description: 'reports of latencies' });
      const read = async () => {
        await send(measured, 'POST', '/entry', toEntry(1));
        const { stdout } = await runOpm(['status'], backend.env);
        return (
          /^p99 to the acknowledgement \d[\d,]* ms, to the row \d[\d,]* ms \(last seconds\)$/m.test(stdout) && stdout
        );
      };
      const stdout = await waitFor(read, { description: 'latencies' });
      expect(stdout).toMatch(/^waiting: \d+ entr(y|ies)\b.*, the oldest for \d+ s\b/m);
      expect(stdout).toMatch(/^1 dead letter$/m);
    });

    test('a renamed project keeps its keys and its counts', async () => {
      const renamed = await store.projects.create('before');
      expect(await send(renamed, 'POST', '/entry', toEntry(1))).toBe(201);
      await waitFor(async () => (await countsOf('before'))?.created === 1, { description: 'the count' });
      expect(await runOpm(['projects', 'rename', 'before', 'after'], backend.env)).toMatchObject({ code: 0 });
      expect(await send(renamed, 'POST', '/entry', toEntry(2))).toBe(201);
      const isCounted = async () => (await countsOf('after'))?.created === 2;
      await waitFor(isCounted, { description: 'the count under the new name' });
      expect(await columnsOf('after')).toMatchObject({ project: 'after', created: '2' });
      expect(await runOpm(['projects', 'stats', 'before'], backend.env)).toMatchObject({ code: 3, stdout: '' });

      const { projectId } = renamed;
      await query(backend.databaseUrl, `DELETE FROM project_minutes WHERE project_id = ${projectId}`);
      const { stdout } = await runOpm(['projects', 'stats', 'after'], backend.env);
      expect(stdout).toMatch(/^no requests; the last one was at \d{4}-\d\d-\d\dT\d\d:\d\dZ$/m);
    });
  }

  test('opm customers erase erases as a DELETE of the partner does, in the order of the entries', async () => {
    expect(await send(acme, 'POST', '/entry', toEntry('gone'))).toBe(201);
    const { code, stdout } = await runOpm(['customers', 'erase', 'acme', 'gone', '--json'], backend.env);
    expect([code, JSON.parse(stdout)]).toEqual([0, { projectId: acme.projectId, customerId: 'gone' }]);
    for (const customerId of ['', 'x'.repeat(256)]) {
      expect(await runOpm(['customers', 'erase', 'acme', customerId], backend.env)).toMatchObject({
        ...{ code: 2, stdout: '' },
        stderr: expect.stringMatching(/^opm: the customer id must /),
      });
    }
    const isGone = async () => (await store.customers.find(acme.projectId, 'gone')) === undefined;
    await waitFor(async () => (await countsOf('acme'))?.persisted === 9, { description: 'the erasure' });
    expect(await isGone()).toBe(true);
    // This ingress did not take the erasure. If a worker stored the next entry before the look-up, its answer would be
    // 202.
    await Promise.all(workers.splice(0).map((worker) => worker.stop()));
    expect(await send(acme, 'POST', '/entry', toEntry('gone'))).toBe(201);
  });

  test('status says which store does not answer, and still tells the rest', async () => {
    const databaseUrl = 'postgresql://nobody@127.0.0.1:1/nothing';
    const { code, stdout } = await runOpm(['status'], { ...backend.env, DATABASE_URL: databaseUrl });
    expect(code).toBe(1);
    expect(stdout).toContain('PostgreSQL cannot be read: ');
  });
});
