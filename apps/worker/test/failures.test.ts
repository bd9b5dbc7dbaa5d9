import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, type EntryQueue, openDashboardQueues } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';

const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };

// The trigger raises an error or ends the session, depending on the row's email.
const TRIGGER = `
  CREATE SEQUENCE tries;
  CREATE FUNCTION meet_failure() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.email LIKE '%@state-_____' THEN RAISE 'not now' USING ERRCODE = right(NEW.email, 5); END IF;
    IF NEW.email = 'ends@example.com' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    IF NEW.email = 'unknown@example.com' THEN RAISE 'nobody knows'; END IF;
    IF NEW.email = 'deadlock@example.com' AND nextval('tries') <= 2 THEN
      RAISE 'deadlock detected' USING ERRCODE = 'deadlock_detected';
    END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER meet_failure BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION meet_failure()`;

describe.each(BACKENDS)('a worker with the queue on %s:', (name, createBackend) => {
  let backend: Backend;
  let store: Store;
  let client: pg.Client;
  let queue: EntryQueue;
  let worker: TestApp;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    client = new pg.Client({ connectionString: backend.databaseUrl });
    await client.connect();
    await client.query(TRIGGER);
    queue = await createEntryQueue({ ...backend, ...options });
    // The job lock is long, so that a slow machine does not dequeue, and count, a job twice.
    worker = await startApp('worker', { ...backend.env, JOB_MAX_ATTEMPTS: '3', JOB_LOCK_MS: '600000' });
  });
  afterAll(async () => {
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
    await queue.close();
    await client.end();
    await store.close();
    await backend.drop();
  });

  let version = Date.now() * 1_000;
  let nextProject = 100;
  const enqueue = (projectId: number, ...emails: string[]) =>
    queue.enqueue(0, {
      entries: emails.map((email, i) => ({ projectId, customerId: `c${i}`, version: version++, fields: { email } })),
    });
  const find = (projectId: number, customerId: string) => store.customers.find(projectId, customerId);
  async function untilEmpty(): Promise<void> {
    const { queues, close } = await openDashboardQueues({ ...backend, ...options });
    const isEmpty = async () =>
      Object.values((await queues[0]?.getJobCounts()) ?? { none: 1 }).every((jobs) => jobs === 0);
    await waitFor(isEmpty, { description: 'an empty queue' }).finally(close);
  }

  test('a statement that lost a deadlock is retried at once, and its job uses up no attempt', async () => {
    await enqueue(1, 'jane@example.com', 'deadlock@example.com');
    await waitFor(async () => (await find(1, 'c0')) && find(1, 'c1'), { description: 'the rows' });
    expect(await worker.readMetric('opm_retries_total{reason="conflict"}')).toBe(2);
    expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(0);
  });

  test('an entry that keeps failing with an unclassified error becomes a dead letter, its neighbors rows', async () => {
    await enqueue(2, 'a@example.com', 'unknown@example.com', 'b@example.com');
    const letters = () => store.deadLetters.list({ projectId: 2 }, { limit: 5 });
    await waitFor(async () => (await letters()).length > 0, { description: 'the dead letter' });
    expect(await letters()).toMatchObject([{ customerId: 'c1', error: 'nobody knows', sqlState: 'P0001' }]);
    const rows = await Promise.all(['c0', 'c1', 'c2'].map((customerId) => find(2, customerId)));
    expect(rows.map((row) => row?.email)).toEqual(['a@example.com', undefined, 'b@example.com']);
    expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(2);
    await waitFor(async () => (await worker.readMetric('opm_dead_letters_total{reason="P0001"}')) === 1, {
      description: 'the letter to be counted',
    });

    await untilEmpty();
  });

  test('a missing table uses up no attempt and logs one warning; once it exists, all entries are persisted', async () => {
    const errors = await worker.readMetric('opm_retries_total{reason="error"}');
    await client.query('ALTER TABLE customers RENAME TO hidden');
    await enqueue(3, 'a@example.com');
    await waitFor(async () => (await worker.readMetric('opm_retries_total{reason="outage"}')) > 0, {
      description: 'the outage',
    });
    for (let i = 0; i < 20; i++) await enqueue(3, 'b@example.com');
    const { queues, close } = await openDashboardQueues({ ...backend, ...options });
    // The worker takes none of them: a taken job would be active or gone.
    await waitFor(async () => (await queues[0]?.getJobCounts('waiting'))?.waiting === 21, {
      description: 'waiting jobs',
    });
    const jobs = (await queues[0]?.getJobs(['waiting'])) ?? [];
    expect(jobs.map(({ attemptsMade }) => attemptsMade)).toEqual(jobs.map(() => 0));
    expect(await worker.readMetric('opm_queue_jobs{state="waiting"}')).toBe(21);
    expect(await worker.readMetric('opm_oldest_waiting_seconds')).toBeGreaterThan(0);
    await close();

    await client.query('ALTER TABLE hidden RENAME TO customers');
    await waitFor(async () => (await find(3, 'c0'))?.email === 'b@example.com', { description: 'the row' });
    expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(errors);
    const about = (text: string) => worker.output().split(text).length - 1;
    await waitFor(() => about('resumed: PostgreSQL') === 1, { description: 'the log line of the resume' });
    expect(about('paused: PostgreSQL')).toBe(1);
  });

  test('a customer with a locked row delays no other customer, and is persisted after the lock ends', async () => {
    await enqueue(6, 'first@example.com');
    await waitFor(() => find(6, 'c0'), { description: 'the row' });
    await client.query("BEGIN; UPDATE customers SET ip = '::1' WHERE project_id = 6");
    await enqueue(6, 'held@example.com');
    for (let i = 0; i < 200; i++) await enqueue(7, `${i}@example.com`);
    const last = () => find(7, 'c0');
    await waitFor(async () => (await last())?.email === '199@example.com', { description: 'the others' });
    expect((await find(6, 'c0'))?.email).toBe('first@example.com');
    await client.query('COMMIT');
    await waitFor(async () => (await find(6, 'c0'))?.email === 'held@example.com', { description: 'the row' });
    expect(await worker.readMetric('opm_worker_paused')).toBe(0);
  });

  test('entries for locked rows, however many, delay neither other customers nor neighbors in the job', async () => {
    const [held, others] = [nextProject++, nextProject++];
    await enqueue(held, 'first@example.com', 'first@example.com');
    await untilEmpty(); // so that the metrics include the jobs of earlier tests
    await client.query(`
      BEGIN; UPDATE customers SET ip = '::1' WHERE project_id = ${held} AND customer_id = 'c0';
      INSERT INTO customers (project_id, customer_id, email, created_at, updated_at)
      VALUES (${held}, 'c2', 'a@example.com', now(), now())`);
    const [blocked, persisted] = [
      await worker.readMetric('opm_retries_total{reason="blocked"}'),
      await worker.readMetric('opm_entries_persisted_total'),
    ];
    // More jobs than the worker processes at a time, each of which would wait for the row.
    for (let i = 0; i < 80; i++) {
      await enqueue(held, 'held@example.com');
      await enqueue(others, `${i}@example.com`);
    }
    await enqueue(held, 'held@example.com', 'neighbour@example.com', 'held@example.com');
    await waitFor(async () => (await find(others, 'c0'))?.email === '79@example.com', { description: 'the others' });
    await waitFor(async () => (await find(held, 'c1'))?.email === 'neighbour@example.com', {
      description: 'the neighbour',
    });
    await waitFor(() => worker.output().includes('rows that another session has locked'), { description: 'a warning' });
    expect(await worker.readMetric('opm_retries_total{reason="blocked"}')).toBeGreaterThan(blocked);
    expect((await find(held, 'c0'))?.email).toBe('first@example.com');
    await client.query('COMMIT');
    for (const id of ['c0', 'c2']) {
      await waitFor(async () => (await find(held, id))?.email === 'held@example.com', { description: `the row ${id}` });
    }
    await untilEmpty();
    // Each entry counts once, however often its job was tried.
    expect((await worker.readMetric('opm_entries_persisted_total')) - persisted).toBe(163);
    expect(await worker.readMetric('opm_worker_paused')).toBe(0);
  });

  test('entries for which a trigger raises an outage error delay no others, and become dead letters', async () => {
    const states = ['53100', '53200', '57P01', '57P03', '08006', '55000', '25006', '42501'];
    const innocent = nextProject++; // a new project, in case the test is retried
    const guilty = states.map((state) => ({ state, projectId: nextProject++ }));
    for (const { state, projectId } of guilty) {
      await enqueue(projectId, 'a@example.com', `b@state-${state}`, 'c@example.com');
      for (let i = 0; i < 20; i++) await enqueue(innocent, `${state}-${i}@example.com`);
    }
    await waitFor(async () => (await find(innocent, 'c0'))?.email === '42501-19@example.com', {
      description: 'the others',
    });
    for (const { state, projectId } of guilty) {
      await waitFor(async () => (await find(projectId, 'c0')) && find(projectId, 'c2'), { description: 'neighbours' });
      const letters = () => store.deadLetters.list({ projectId }, { limit: 5 });
      await waitFor(async () => (await letters()).length > 0, { description: 'the dead letter' });
      expect(await letters()).toMatchObject([{ customerId: 'c1', error: 'not now', sqlState: state }]);
      expect(await find(projectId, 'c1')).toBeUndefined();
    }
    await untilEmpty();
    expect(worker.output().split('paused: PostgreSQL').length - 1).toBe(1); // from the test with the missing table
    expect(await worker.readMetric('opm_worker_paused')).toBe(0);
  });

  test('an entry that ends the session of each of its statements becomes a dead letter, without a pause', async () => {
    const [guilty, innocent] = [nextProject++, nextProject++];
    await enqueue(guilty, 'a@example.com', 'ends@example.com', 'b@example.com');
    for (let i = 0; i < 20; i++) await enqueue(innocent, `${i}@example.com`);
    await waitFor(async () => (await find(innocent, 'c0'))?.email === '19@example.com', { description: 'the others' });
    const letters = () => store.deadLetters.list({ projectId: guilty }, { limit: 5 });
    await waitFor(async () => (await letters()).length > 0, { description: 'the dead letter' });
    expect(await letters()).toMatchObject([{ customerId: 'c1', sqlState: '57P01' }]);
    await untilEmpty();
    expect(await find(guilty, 'c2')).toBeDefined();
    expect(worker.output().split('paused: PostgreSQL').length - 1).toBe(1);
  });

  test.each([
    [
      'raises disk_full for every row',
      `CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$;
       CREATE TRIGGER full_disk BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION fill()`,
      'DROP FUNCTION fill CASCADE',
    ],
    [
      'is read-only',
      `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$;
       SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'opm-worker'`,
      `SET default_transaction_read_only = off;
       DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$;
       SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'opm-worker'`,
    ],
  ])(
    'while PostgreSQL answers and %s, jobs wait and use up no attempt, and all entries are persisted afterwards',
    async (_what, begin, end) => {
      const own = nextProject++;
      const read = (reason: string) => worker.readMetric(`opm_retries_total{reason="${reason}"}`);
      const [errors, outages] = [await read('error'), await read('outage')];
      const letters = await store.deadLetters.count({});
      await client.query(begin);
      for (let i = 0; i < 20; i++) await enqueue(own, `${i}@example.com`, `${i}@example.com`);
      // The worker postpones jobs more often than JOB_MAX_ATTEMPTS would allow failing entries.
      await waitFor(async () => (await read('outage')) > outages + 20, {
        description: 'the outage',
        timeoutMs: 120_000,
      });
      expect(await worker.readMetric('opm_worker_paused')).toBe(1);
      await client.query(end);
      for (const id of ['c0', 'c1']) {
        await waitFor(async () => (await find(own, id))?.email === '19@example.com', { description: `the row ${id}` });
      }
      await untilEmpty();
      expect(await read('error')).toBe(errors);
      expect(await store.deadLetters.count({})).toEqual(letters);
    },
  );

  test('metrics count the rows and time of statements, and the time from admission to row', async () => {
    const count = await worker.readMetric('opm_entry_persist_seconds_count');
    await enqueue(4, 'a@example.com', 'b@example.com', 'c@example.com');
    await waitFor(async () => (await worker.readMetric('opm_entry_persist_seconds_count')) === count + 3, {
      description: 'three more entries',
    });
    expect(await worker.readMetric('opm_entries_persisted_total')).toBe(count + 3);
    expect(await worker.readMetric('opm_entry_persist_seconds_sum')).toBeGreaterThan(0);
    expect(await worker.readMetric('opm_statement_seconds_count')).toBe(
      await worker.readMetric('opm_statement_rows_count'),
    );
  });

  test('a worker killed during a statement loses nothing: another worker takes over its jobs', async () => {
    const LOCK_MS = 2_000;
    const another = await createBackend();
    const env = { ...another.env, JOB_LOCK_MS: String(LOCK_MS) };
    const locker = new pg.Client({ connectionString: another.databaseUrl });
    await locker.connect();
    const entries = await createEntryQueue({ ...another, ...options });
    const killed = await startApp('worker', env);
    await locker.query('BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE');
    for (let i = 0; i < 5; i++) {
      const entry = { projectId: 1, customerId: `killed ${i}`, version: version++, fields: { email: 'a@example.com' } };
      await entries.enqueue(0, { entries: [entry] });
    }
    await waitFor(async () => (await killed.readMetric('opm_queue_jobs{state="active"}')) === 5, {
      description: 'the jobs',
    });
    await killed.stop('SIGKILL');
    await locker.query('ROLLBACK');
    await locker.query('TRUNCATE customers'); // the statement may have committed after its worker was killed

    const other = await startApp('worker', env);
    const rows = async () => (await locker.query('SELECT FROM customers')).rowCount;
    // The job locks expire, and BullMQ's next stalled check finds that.
    await waitFor(async () => (await rows()) === 5, { description: 'the rows' });
    expect(await other.readMetric('opm_queue_jobs{state="failed"}')).toBe(0);
    await other.stop();
    await entries.close();
    await locker.end();
    await another.drop();
  });

  test('a scheduled job purges old tombstones', async () => {
    const day = 24 * 60 * 60 * 1_000;
    const erase = (customerId: string, daysAgo: number) =>
      queue.enqueue(0, {
        entries: [{ projectId: 5, customerId, version: (Date.now() - daysAgo * day) * 1_000, erase: true }],
      });
    await erase('old', 31);
    await erase('recent', 29);
    const tombstones = async () =>
      (await client.query('SELECT customer_id FROM customers WHERE project_id = 5')).rows.map(
        ({ customer_id }) => customer_id,
      );
    await waitFor(async () => (await tombstones()).length === 2, { description: 'the tombstones' });
    // The worker notes this within a minute.
    await client.query('UPDATE high_water_mark SET finished_before = $1', [Date.now() * 1_000]);
    // This hour's job ran when the worker started, so the test enqueues another one.
    const { queues, close } = await openDashboardQueues({ ...backend, ...options });
    await queues.find(({ name }) => name === 'maintenance')?.add('purge-tombstones', {}, { removeOnComplete: true });
    await close();
    await waitFor(async () => (await tombstones()).join() === 'recent', { description: 'the purge' });
  });

  if (name === 'PostgreSQL') return; // dead letters are in PostgreSQL with either queue

  test('the log names each project and reason of dead letters once a minute, also if 200 projects have some', async () => {
    const projects = Array.from({ length: 200 }, () => nextProject++);
    for (let repeat = 0; repeat < 2; repeat++) {
      const toEntry = (projectId: number) => ({
        ...{ projectId, customerId: 'c0', version: version++ },
        fields: { email: 'a@state-22021' },
      });
      await queue.enqueue(0, { entries: projects.map(toEntry) });
      await untilEmpty();
    }
    const named = () => [...worker.output().matchAll(/"message":"project: (\d+), reason: 22021"/g)].map(([, id]) => id);
    await waitFor(() => named().length >= projects.length, { description: 'the log lines' });
    expect(
      named()
        .map(Number)
        .sort((a, b) => a - b),
    ).toEqual(projects);
    expect(worker.output()).not.toContain('@state-22021');
  });

  test('a scheduled job purges dead letters that were replayed or discarded 30 days ago', async () => {
    const insert = `INSERT INTO dead_letters (project_id, customer_id, version, payload, error, resolution, resolved_at)`;
    await client.query(`${insert} VALUES (6, 'old', 1, 'null', '', 'discarded', now() - interval '31 days')`);
    await client.query(
      `${insert} VALUES (6, 'recent', 1, 'null', '', 'replayed', now()), (6, 'open', 1, '{}', '', NULL, NULL)`,
    );
    const letters = async () =>
      (await client.query('SELECT customer_id FROM dead_letters WHERE project_id = 6 ORDER BY id')).rows.map(
        ({ customer_id }) => customer_id,
      );
    const { queues, close } = await openDashboardQueues({ ...backend, ...options });
    await queues.find(({ name }) => name === 'maintenance')?.add('purge-dead-letters', {}, { removeOnComplete: true });
    await close();
    await waitFor(async () => (await letters()).join() === 'recent,open', { description: 'the purge' });
  });
});
