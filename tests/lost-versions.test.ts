import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { toHashTag } from '@opm/queue';
import { createStore } from '@opm/store';
import {
  BACKENDS,
  type Backend,
  createBackend,
  query,
  startApp,
  startProxy,
  type TestApp,
  waitFor,
  withRedis,
} from '@opm/testkit';

const HOUR = 3_600_000_000;

type Place = { databaseUrl: string; redisUrl: string | undefined; prefix: string };

const createClient = (ingress: TestApp, apiKey: string) => {
  const call = async (method: string, path: string, body?: object) => {
    const init = { method, headers: { 'x-api-key': apiKey }, ...(body && { body: JSON.stringify(body) }) };
    const response = await fetch(ingress.url + path, init);
    return { status: response.status, body: (await response.json()) as { pending?: boolean; customer?: object } };
  };
  return {
    post: async (customerId: string, customerEmail: string) =>
      (await call('POST', '/entry', { customerId, customerEmail })).status,
    erase: async (customerId: string) => (await call('DELETE', `/entry/${customerId}`)).status,
    get: (customerId: string) => call('GET', `/entry/${customerId}`),
    /**
     * Resolves when the customer has nothing pending.
     * @returns the email, or undefined if the customer does not exist
     */
    settled: async (customerId: string) => {
      const isSettled = async () => {
        const { status, body } = await call('GET', `/entry/${customerId}`);
        if (status === 404 && JSON.stringify(body).includes('does not exist')) return { customer: undefined };
        return body.pending === false && (body as { customer: { customerEmail: string } });
      };
      return (await waitFor(isSettled, { description: `${customerId} to be settled` })).customer?.customerEmail;
    },
  };
};
type Client = ReturnType<typeof createClient>;

/** Sets the shards' last versions as a server does whose clock is this many hours ahead. */
async function setClockAhead({ databaseUrl, redisUrl, prefix }: Place, hours: number, shards = 1) {
  const version = Date.now() * 1_000 + hours * HOUR;
  for (let shard = 0; shard < shards; shard++) {
    if (redisUrl) {
      await withRedis(redisUrl, (redis) => redis.set(`${toHashTag(prefix, shard, shards)}:version`, version));
    } else {
      const text = 'INSERT INTO admission.shards VALUES ($1, $2) ON CONFLICT (shard) DO UPDATE SET last_version = $2';
      await query(databaseUrl, text, [shard, version]);
    }
  }
}

/** Empties the queue store, as if a store without persistence had restarted. */
async function empty({ databaseUrl, redisUrl, prefix }: Place) {
  if (!redisUrl) {
    return query(databaseUrl, 'TRUNCATE admission.shards, admission.claims, admission.backlogs');
  }
  return withRedis(redisUrl, async (redis) => {
    const keys = await redis.keys(`{${prefix}-*`);
    if (keys.length > 0) await redis.del(...keys);
  });
}

/** Creates customers whose rows are written while the clock is ahead. */
async function fill({ post, settled }: Client, round: string) {
  for (const id of [`updated ${round}`, `erased ${round}`]) {
    expect(await post(id, 'old@example.com')).toBe(201);
    expect(await settled(id)).toBe('old@example.com');
  }
}

/** Later entries must win although the store's clock is an hour behind the rows. */
async function expectNewerToWin({ post, erase, settled }: Client, round: string) {
  expect(await post(`updated ${round}`, 'new@example.com')).toBe(202);
  expect(await settled(`updated ${round}`)).toBe('new@example.com');
  expect(await erase(`erased ${round}`)).toBe(202);
  expect(await settled(`erased ${round}`)).toBeUndefined();
  expect(await post(`erased ${round}`, 'back@example.com')).toBe(201);
  expect(await settled(`erased ${round}`)).toBe('back@example.com');
  const first = await Promise.all(Array.from({ length: 20 }, () => post(`first ${round}`, 'first@example.com')));
  expect(first.filter((status) => status === 201)).toHaveLength(1);
}

/** How far the newest version of all rows is ahead of now, in hours. */
async function readLead({ databaseUrl }: Place): Promise<number> {
  const [row] = await query<{ newest: string }>(databaseUrl, 'SELECT max(email_version) AS newest FROM customers');
  return (Number(row?.newest) - Date.now() * 1_000) / HOUR;
}

let apps: TestApp[] = [];
const start = async (env: NodeJS.ProcessEnv, apiKey: string) => {
  apps = await Promise.all([startApp('ingress', env), startApp('worker', env)]);
  return createClient(apps[0] as TestApp, apiKey);
};
const stop = async () => {
  for (const app of apps.splice(0)) expect(await app.stop()).toEqual({ code: 0, signal: null });
};
afterEach(stop);

const createProject = async ({ databaseUrl }: Place) => {
  const store = createStore({ databaseUrl, applicationName: 'test' });
  return (await store.projects.create('acme').finally(store.close)).apiKey;
};

describe.each(BACKENDS)(
  'after a clock was an hour ahead, with the queue on %s, newer entries win',
  (_, createPlace) => {
    let backend: Backend;
    let apiKey: string;

    beforeEach(async () => {
      backend = await createPlace();
      apiKey = await createProject(backend);
    });
    afterEach(() => backend.drop());

    test('when the store comes back empty', async () => {
      const client = await start(backend.env, apiKey);
      for (const round of ['once', 'twice']) {
        await client.post('before', 'before@example.com');
        await setClockAhead(backend, 1);
        await fill(client, round);
        expect(await readLead(backend)).toBeGreaterThan(0.9);
        await empty(backend);
        await expectNewerToWin(client, round);
      }
    });

    test('with another number of shards, and with the previous one again', async () => {
      await setClockAhead(backend, 1);
      await fill(await start(backend.env, apiKey), 'one shard');
      await stop();
      const client = await start({ ...backend.env, QUEUE_SHARDS: '3' }, apiKey);
      await expectNewerToWin(client, 'one shard');
      await setClockAhead(backend, 2, 3);
      await fill(client, 'three shards');
      expect(await readLead(backend)).toBeGreaterThan(1.9);
      await stop();
      await setClockAhead(backend, 0); // The version that the single shard had before.
      await expectNewerToWin(await start(backend.env, apiKey), 'three shards');
    });
  },
);

test('newer entries win when the queue moves to PostgreSQL and back to a Redis with old versions', async () => {
  const backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  const apiKey = await createProject(backend);
  const onPostgres = { ...backend, redisUrl: undefined };
  await setClockAhead(backend, 1);
  await fill(await start(backend.env, apiKey), 'on Redis');
  await stop();
  const client = await start({ ...backend.env, REDIS_URL: '' }, apiKey);
  await expectNewerToWin(client, 'on Redis');
  await setClockAhead(onPostgres, 2);
  await fill(client, 'on PostgreSQL');
  expect(await readLead(backend)).toBeGreaterThan(1.9);
  await stop();
  await expectNewerToWin(await start(backend.env, apiKey), 'on PostgreSQL');
  await stop();
  await backend.drop();
});

test('an empty Redis accepts no entry while PostgreSQL is down, and afterwards none older than a row', async () => {
  const backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  const apiKey = await createProject(backend);
  const postgres = await startProxy(backend.databaseUrl);
  const client = await start({ ...backend.env, DATABASE_URL: postgres.url }, apiKey);
  await setClockAhead(backend, 1);
  await fill(client, 'away');
  await postgres.cut();
  expect(await client.post('updated away', 'accepted@example.com')).toBe(202);
  await empty(backend);
  for (let i = 0; i < 3; i++) expect(await client.post('updated away', 'refused@example.com')).toBe(503);
  await postgres.restore();
  const isAccepted = async () => (await client.post('updated away', 'back@example.com')) === 202;
  await waitFor(isAccepted, { description: 'entries to be accepted' });
  // After an outage the ingress pauses its look-ups in PostgreSQL for a while, and answers 202 until then.
  let customers = 0;
  const isKnown = async () => (await client.post(`new ${customers++}`, 'new@example.com')) === 201;
  await waitFor(isKnown, { description: 'the ingress to ask PostgreSQL who exists' });
  await expectNewerToWin(client, 'away');
  await stop();
  await postgres.close();
  await backend.drop();
});
