import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createApiKey } from '@opm/core';
import { type EmbeddedPostgres, findFreePort, startEmbeddedPostgres } from '@opm/embedded';
import { openDashboardQueues } from '@opm/queue';
import { createStore } from '@opm/store';
import { startApp, startProcess, startProxy, type TestApp, testPrefix, waitFor } from '@opm/testkit';

// A separate PostgreSQL, because the test stops it.
let dataDir: string;
let postgres: EmbeddedPostgres;
let redis: { REDIS_URL: string | undefined; REDIS_PREFIX: string };
let apps: TestApp[];
let apiKey: string;

const start = (port?: number) =>
  startEmbeddedPostgres({ dataDir: join(dataDir, 'postgres'), postgresFlags: ['fsync=off'], ...(port && { port }) });
const useStore = async <T>(use: (store: ReturnType<typeof createStore>) => Promise<T>): Promise<T> => {
  const store = createStore({ databaseUrl: postgres.url, applicationName: 'test' });
  return use(store).finally(store.close);
};

beforeAll(async () => {
  apps = [];
  dataDir = await mkdtemp(join(tmpdir(), 'opm-outage-'));
  postgres = await start();
  redis = { REDIS_URL: process.env.OPM_TEST_REDIS_URL, REDIS_PREFIX: testPrefix() };
  const env = { ...process.env, DATABASE_URL: postgres.url };
  await promisify(execFile)(process.execPath, ['apps/cli/bin/opm.js', 'migrate'], { env });
  ({ apiKey } = await useStore((store) => store.projects.create('acme')));
});
afterAll(async () => {
  await Promise.all(apps.map((app) => app.stop()));
  await postgres.stop();
  await rm(dataDir, { recursive: true, force: true });
});

const post = async (ingress: TestApp, customerId: string, key = apiKey) => {
  const response = await fetch(`${ingress.url}/entry`, {
    method: 'POST',
    headers: { 'x-api-key': key },
    body: JSON.stringify({ customerId, customerPhone: '+1' }),
  });
  return { status: response.status, retryAfter: response.headers.get('retry-after'), body: await response.json() };
};

const allStored = (ids: string[], worker: TestApp) => {
  const asked = ids.map((customerId) => ({ projectId: 1, customerId, version: Number.MAX_SAFE_INTEGER }));
  return useStore((store) =>
    waitFor(
      async () => {
        const { size } = await store.customers.findExisting(asked);
        if (size < ids.length)
          throw new Error(`there are ${size} of ${ids.length}; the worker says:\n${worker.output()}`);
        return true;
      },
      // Jobs of a lost connection are retried when their locks expire.
      { description: 'all rows' },
    ),
  );
};

test('an ingress that starts while PostgreSQL does not answer logs one line without a stack, and accepts entries once it does', async () => {
  const proxy = await startProxy(postgres.url);
  proxy.delay(60_000);
  const ingress = await startProcess({
    file: 'apps/ingress/dist/main.js',
    env: {
      ...redis,
      ANSWER_TIMEOUT_MS: '1000',
      DATABASE_URL: proxy.url,
      HOST: '127.0.0.1',
      PORT: '0',
      INTERNAL_PORT: String(await findFreePort()),
    },
    readyOutput: /PostgreSQL does not answer/,
  });
  try {
    proxy.delay(0);
    const isUp = () => ingress.output().includes('"msg":"accepting entries"');
    await waitFor(isUp, { description: 'entries to be accepted', timeoutMs: 30_000 });
    const lines = ingress.output().split('\n');
    const [line = '', ...others] = lines.filter((text) => /PostgreSQL (does not answer|look-up failed)/.test(text));
    expect(JSON.parse(line)).toMatchObject({ level: 'warn', reason: expect.stringContaining('timeout') });
    expect(line).not.toContain('stack');
    expect(others).toEqual([]);
  } finally {
    await ingress.stop();
    await proxy.close();
  }
});

test('PostgreSQL stopped for 30 s under load: entries are acknowledged, no job attempt fails, all become rows', async () => {
  const ingress = await startApp('ingress', { DATABASE_URL: postgres.url, ...redis });
  const worker = await startApp('worker', { DATABASE_URL: postgres.url, ...redis });
  apps.push(ingress, worker);
  expect((await post(ingress, 'before')).status).toBe(201);
  const acknowledged = ['before'];
  const postUntil = async (isOver: () => boolean, statuses: number[]) => {
    while (!isOver()) {
      const ids = Array.from({ length: 10 }, (_, i) => `${acknowledged.length + i}`);
      const answers = await Promise.all(ids.map((id) => post(ingress, id)));
      for (const { status } of answers) expect(statuses).toContain(status);
      acknowledged.push(...ids);
      await delay(20); // About 400 entries per second: moderate load, not the maximum.
    }
  };

  let isStopped = false;
  const stopping = delay(300).then(() => postgres.stop());
  // Until the ingress has noticed the outage, either status is right.
  await Promise.all([stopping.then(() => (isStopped = true)), postUntil(() => isStopped, [201, 202])]);
  const until = Date.now() + 30_000;
  // The ingress cannot look up whether the customer exists, so it answers 202.
  await postUntil(() => Date.now() > until, [202]);
  expect((await post(ingress, 'before')).status).toBe(202);
  expect(await post(ingress, 'x', createApiKey())).toEqual({
    status: 503,
    retryAfter: '1',
    body: { statusCode: 503, error: 'Service Unavailable', message: 'API key could not be checked, try again' },
  });

  const dashboard = await openDashboardQueues({
    databaseUrl: postgres.url,
    redisUrl: redis.REDIS_URL,
    prefix: redis.REDIS_PREFIX,
    shards: 1,
    signal: new AbortController().signal,
    onError: () => {},
  });
  const [queue] = dashboard.queues;
  // A second worker that starts during the outage pauses too, and can be stopped meanwhile.
  const leaving = await startApp('worker', { DATABASE_URL: postgres.url, ...redis });
  apps.push(leaving);
  await waitFor(() => leaving.output().includes('paused: PostgreSQL'), { description: 'the second worker to pause' });
  expect(await leaving.stop()).toEqual({ code: 0, signal: null });

  const noneTried = { active: 0, delayed: 0, failed: 0 };
  await waitFor(async () => (await queue?.getJobCounts('active'))?.active === 0, { description: 'no active job' });
  expect(await queue?.getJobCounts('active', 'delayed', 'failed')).toEqual(noneTried);
  const waiting = (await queue?.getJobs(['waiting'])) ?? [];
  expect(waiting.length).toBeGreaterThan(0);
  expect(waiting.filter(({ attemptsMade }) => attemptsMade > 0)).toEqual([]);

  postgres = await start(postgres.port);
  await postUntil(() => worker.output().includes('resumed: PostgreSQL'), [201, 202]);
  await allStored(acknowledged, worker);
  expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(0);
  expect(await useStore((store) => store.deadLetters.count({}))).toEqual([]);
  expect(await queue?.getJobCounts('failed')).toEqual({ failed: 0 });
  await dashboard.close();
  // One line at the beginning of the outage and one at its end.
  expect(worker.output().match(/"msg":"(paused|resumed)[^"]*"/g)).toHaveLength(2);
  expect(worker.output().split('\n').length).toBeLessThan(10);
});

test('Redis down and back: acknowledged entries become rows, and both processes recover by themselves', async () => {
  const proxy = await startProxy(redis.REDIS_URL ?? '');
  const place = { DATABASE_URL: postgres.url, REDIS_URL: proxy.url, REDIS_PREFIX: testPrefix() };
  // The ingress gives up a silent connection after 1.5 times that.
  const env = { ...place, ANSWER_TIMEOUT_MS: '10000' };
  const ingress = await startApp('ingress', env);
  const worker = await startApp('worker', env);
  apps.push(ingress, worker);
  const acknowledged: string[] = [];
  const toId = (what: string) => `${what} of ${env.REDIS_PREFIX}`;
  const postSome = async (what: string) => {
    const ids = Array.from({ length: 50 }, (_, i) => toId(`${what} ${i}`));
    const answers = await Promise.all(ids.map((id) => post(ingress, id)));
    acknowledged.push(...ids.filter((_, i) => (answers[i]?.status ?? 0) < 300));
    return new Set(answers.map(({ status }) => status));
  };
  for (let outage = 0; outage < 3; outage++) {
    const racing = postSome(`racing ${outage}`);
    await proxy.cut();
    await racing;
    expect(await postSome(`refused ${outage}`)).toEqual(new Set([503]));
    await proxy.restore();
    await waitFor(async () => (await post(ingress, toId(`probe ${outage}`))).status === 201, {
      description: 'the ingress',
    });
    expect(await postSome(`after ${outage}`)).toEqual(new Set([201]));
  }
  await allStored(acknowledged, worker);
  expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(0);

  // A connection that was lost silently looks open for ever.
  proxy.swallow();
  await waitFor(async () => (await post(ingress, toId('after the silence'))).status === 201, {
    description: 'the ingress',
  });
  expect(await postSome('silence')).toEqual(new Set([201]));
  await allStored(acknowledged, worker);

  expect(worker.output().split('\n').length).toBeLessThan(20); // three outages
  await proxy.cut();
  expect({ ...(await worker.stop()), output: worker.output() }).toMatchObject({ code: 0, signal: null });
  expect(await ingress.stop()).toEqual({ code: 0, signal: null });
});

test('PostgreSQL down and back, with the queue on it too: acknowledged entries become rows', async () => {
  const env = { DATABASE_URL: postgres.url, REDIS_URL: '' };
  const ingress = await startApp('ingress', env);
  const worker = await startApp('worker', env);
  apps.push(ingress, worker);
  const acknowledged: string[] = [];
  let round = 0;
  const postSome = async () => {
    const ids = Array.from({ length: 20 }, (_, i) => `on PostgreSQL ${round} ${i}`);
    round++;
    const answers = await Promise.all(ids.map((id) => post(ingress, id)));
    acknowledged.push(...ids.filter((_, i) => (answers[i]?.status ?? 0) < 300));
    return answers.map(({ status }) => status);
  };
  let isStopped = false;
  const stopping = waitFor(() => acknowledged.length > 100, { description: 'some load' }).then(() => postgres.stop());
  void stopping.then(() => (isStopped = true));
  while (!isStopped) await postSome();
  await stopping;
  expect(new Set(await postSome())).toEqual(new Set([503]));

  postgres = await start(postgres.port);
  await waitFor(async () => (await postSome()).every((status) => status === 201), { description: 'the ingress' });
  await allStored(acknowledged, worker);
  expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(0);
  expect(await useStore((store) => store.deadLetters.count({}))).toEqual([]);
});
