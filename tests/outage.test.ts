import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createApiKey } from '@opm/core';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@opm/embedded';
import { createStore } from '@opm/store';
import { startApp, startProcess, type TestApp, testPrefix, waitFor } from '@opm/testkit';

// A PostgreSQL of its own, because the test stops it.
let dataDir: string;
let postgres: EmbeddedPostgres;
let redis: { REDIS_URL: string | undefined; REDIS_PREFIX: string };
let apps: TestApp[];
let apiKey: string;

const start = () => startEmbeddedPostgres({ dataDir: join(dataDir, 'postgres'), postgresFlags: ['fsync=off'] });
const useStore = async <T>(use: (store: ReturnType<typeof createStore>) => Promise<T>): Promise<T> => {
  const store = createStore({ databaseUrl: postgres.url, applicationName: 'test' });
  return use(store).finally(store.close);
};

beforeAll(async () => {
  apps = [];
  dataDir = await mkdtemp(join(tmpdir(), 'opm-outage-'));
  postgres = await start();
  redis = { REDIS_URL: process.env.OPM_TEST_REDIS_URL, REDIS_PREFIX: testPrefix() };
  const migration = await startProcess({
    file: 'apps/cli/bin/opm.js',
    args: ['migrate'],
    env: { DATABASE_URL: postgres.url },
    readyOutput: /up to date/,
  });
  await migration.exited;
  ({ apiKey } = await useStore((store) => store.projects.create('acme')));
});
afterAll(async () => {
  await Promise.all(apps.map((app) => app.stop()));
  await postgres.stop();
  await rm(dataDir, { recursive: true, force: true });
});

test('while PostgreSQL is away entries are acknowledged, and they are rows once it is back', async () => {
  const ingress = await startApp('ingress', { DATABASE_URL: postgres.url, ...redis });
  apps.push(ingress);
  const post = async (customerId: string, key = apiKey) => {
    const response = await fetch(`${ingress.url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': key },
      body: JSON.stringify({ customerId, customerPhone: '+1' }),
    });
    return { status: response.status, retryAfter: response.headers.get('retry-after'), body: await response.json() };
  };
  expect((await post('before')).status).toBe(201);

  await postgres.stop();
  // Long enough for the cached key to need a look-up, several times over.
  const until = Date.now() + 3_500;
  let posts = 0;
  do {
    // Whether the customer exists cannot be known, so it is not a 201.
    expect((await post(`during ${posts++}`)).status).toBe(202);
  } while (Date.now() < until);
  expect((await post('before')).status).toBe(202);
  expect(await post('x', createApiKey())).toEqual({
    status: 503,
    retryAfter: '1',
    body: { statusCode: 503, error: 'Service Unavailable', message: 'API key could not be checked, try again' },
  });

  postgres = await start();
  apps.push(await startApp('worker', { DATABASE_URL: postgres.url, ...redis }));
  const ids = ['before', ...Array.from({ length: posts }, (_, i) => `during ${i}`)];
  const asked = ids.map((customerId) => ({ customerId, version: Number.MAX_SAFE_INTEGER }));
  await useStore((store) =>
    waitFor(async () => (await store.customers.findExisting(1, asked)).size === ids.length, {
      description: 'all rows',
    }),
  );
});
