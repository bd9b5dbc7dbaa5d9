import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { toHashTag } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { type AppName, BACKENDS, type Backend, query, startApp, type TestApp, waitFor, withRedis } from '@opm/testkit';
import pg from 'pg';

const HOUR_MS = 3_600_000;

/** Environment of a process whose clock is this many hours ahead. */
const shifted = (hours: number) => ({
  NODE_OPTIONS: `--import=data:text/javascript,{const%20own=Date.now;Date.now=()=>own()+${hours * HOUR_MS}}`,
});

describe.each(BACKENDS)('with the queue on %s,', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let apiKey: string;
  let projectId: number;
  let locker: pg.Client;
  /** Each test has its own customer. */
  let customerId = '';
  const apps: TestApp[] = [];

  const start = async (name: AppName, env: NodeJS.ProcessEnv = {}) => {
    const app = await startApp(name, { ...backend.env, JOB_LOCK_MS: '2000', ...env });
    apps.push(app);
    return app;
  };

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    locker = new pg.Client({ connectionString: backend.databaseUrl });
    await locker.connect();
    ingress = await startApp('ingress', backend.env);
  });
  beforeEach(() => {
    customerId = randomUUID();
  });
  afterEach(async () => {
    await Promise.all(apps.splice(0).map((app) => app.stop()));
  });
  afterAll(async () => {
    await ingress.stop();
    await locker.end();
    await store.close();
    await backend.drop();
  });

  const post = async (customerPhone: string) => {
    const init = { method: 'POST', headers: { 'x-api-key': apiKey } };
    const body = JSON.stringify({ customerId, customerPhone });
    expect((await fetch(`${ingress.url}/entry`, { ...init, body })).ok).toBe(true);
  };
  const isStored = (phone: string) =>
    waitFor(async () => (await store.customers.find(projectId, customerId))?.phone === phone, { description: phone });
  /** Locks the customer's row, so that the next entry waits. */
  const holdRow = () => locker.query('BEGIN; SELECT FROM customers FOR UPDATE');
  const releaseRow = () => locker.query('ROLLBACK');

  test.each([
    ['an hour ahead', 'right', 1, 0],
    ['right', 'an hour behind', 0, -1],
  ])(
    'a job postponed by a worker whose clock is %s is taken in time by one whose clock is %s',
    async (_first, _second, firstHours, secondHours) => {
      const first = await start('worker', shifted(firstHours));
      await post('+1');
      await isStored('+1');
      await holdRow();
      await post('+2');
      const isPostponed = async () => (await first.readMetric('opm_retries_total{reason="blocked"}')) > 0;
      await waitFor(isPostponed, { description: 'the job to be postponed' });
      await first.stop();
      await releaseRow();
      await start('worker', shifted(secondHours));
      await isStored('+2');
    },
  );

  test('jobs of a worker that was killed before the store’s clock went back an hour are taken in time', async () => {
    const killed = await start('worker');
    await post('+1');
    await isStored('+1');
    // The slow statement keeps the job active until the worker is killed; then the test ends the statement without an
    // effect.
    await locker.query(`
      CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(12); RETURN NEW; END';
      CREATE TRIGGER take_long BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION take_long()`);
    await post('+2');
    const findSleeping = async (select = '1') =>
      (
        await locker.query(
          `SELECT ${select} FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`,
        )
      ).rowCount;
    await waitFor(findSleeping, { description: 'the statement to take long' });
    await killed.stop('SIGKILL');
    await findSleeping('pg_terminate_backend(pid)');
    await waitFor(async () => (await findSleeping()) === 0, { description: 'the statement to end' });
    expect(await setDeadlinesLater()).toBe(true);
    await locker.query('DROP FUNCTION take_long() CASCADE');
    await start('worker');
    await isStored('+2');
  });

  /**
   * Moves deadlines an hour ahead, as if the store's clock were set back an hour.
   * @returns whether a job was locked
   */
  async function setDeadlinesLater(): Promise<boolean> {
    const { databaseUrl, redisUrl, prefix } = backend;
    if (!redisUrl) {
      const jobs = await query(
        databaseUrl,
        `UPDATE bullmq.job SET locked_until_ms = locked_until_ms + $1 WHERE state = 'active' AND queue = 'entries-0' RETURNING id`,
        [HOUR_MS],
      );
      const move = `UPDATE bullmq.meta SET value = value::bigint + $1 WHERE field = 'stalled-check'`;
      await query(databaseUrl, move, [HOUR_MS]);
      return jobs.length > 0;
    }
    return withRedis(redisUrl, async (redis) => {
      const queue = `${toHashTag(prefix, 0, 1)}:entries-0`;
      await redis.set(`${queue}:stalled-check`, '1', 'PX', HOUR_MS);
      const locks = await redis.keys(`${queue}:*:lock`);
      for (const lock of locks) await redis.pexpire(lock, HOUR_MS);
      return locks.length > 0;
    });
  }

  test.each<AppName>(['ingress', 'worker'])(
    'if the clocks are more than a minute apart, /readyz of the %s reports it and stays ready; a metric has the difference',
    async (name) => {
      /** Retries, because a skew measured on a busy store is not reliable. */
      const see = async (env: NodeJS.ProcessEnv, word: RegExp, minutesAhead: number) => {
        const port = await findFreePort();
        const app = await start(name, { ...env, INTERNAL_PORT: String(port) });
        const isSeen = async () => {
          const response = await fetch(`http://127.0.0.1:${port}/readyz`);
          const { checks } = (await response.json()) as { checks: { queue: string } };
          return response.ok && word.test(checks.queue) && checks.queue;
        };
        const seen = await waitFor(isSeen, { description: `/readyz to be 200 and say ${word}` });
        const isMeasured = async () =>
          Math.round((await app.readMetric('opm_clock_skew_seconds')) / 60) === minutesAhead;
        await waitFor(isMeasured, { description: `a clock that is ${minutesAhead} minutes ahead` });
        return seen;
      };
      expect(await see({}, /./, 0)).not.toContain('clock');
      await see(shifted(1), /\bthe queue store's clock is 3[56]\d\d s behind this process's clock$/, -60);
      await see(shifted(-1), /\bthe queue store's clock is 3[56]\d\d s ahead of this process's clock$/, 60);
    },
  );
});
