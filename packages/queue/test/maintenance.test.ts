import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { RECORD_TTL_US } from '@opm/core';
import {
  BACKENDS,
  type Backend,
  createBackend,
  query,
  startLocalRedis,
  startProxy,
  waitFor,
  withRedis,
} from '@opm/testkit';
import { createEntryWorker, startMaintenance } from '../src/index.js';
import { connectQueueBackend } from '../src/queue-backend.js';
import { changeVersion } from './idempotency-share.js';
import { IDLE_WORKER } from './idle-worker.js';

const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };
/** So that a test need not wait 30 s for a repair. */
const repairEveryMs = 500;

test.each(BACKENDS)(
  'on %s a task runs once per period, whatever the number of processes, also after a failure',
  async (_, createBackend) => {
    const backend = await createBackend();
    const runs: number[] = [];
    const failures: string[] = [];
    const start = () =>
      startMaintenance({
        ...backend,
        ...options,
        tasks: {
          count: {
            everyMs: 1_000,
            run: async () => {
              runs.push(Date.now());
              if (runs.length === 1) throw new Error('not now');
            },
          },
        },
        onDone: () => {},
        onFailed: (task, { message }) => failures.push(`${task}: ${message}`),
      });
    const processes = [await start(), await start()];
    const startedAt = Date.now();
    await waitFor(() => runs.length === 4, { description: 'four runs' });
    await Promise.all(processes.map(({ close }) => close()));
    await backend.drop();
    // Runs are aligned to the period: the fourth is at least two full periods after the first.
    expect((runs[3] ?? 0) - (runs[0] ?? startedAt)).toBeGreaterThan(2_000);
    expect(failures).toEqual(['count: not now']);
  },
);

test.each(BACKENDS)(
  'on %s a running task does not keep its process from stopping, and another process takes it over',
  async (_, createBackend) => {
    const backend = await createBackend();
    const abort = new AbortController();
    const done: string[] = [];
    const failures: string[] = [];
    let isBegun = false;
    const start = (signal: AbortSignal, run: () => Promise<unknown>) =>
      startMaintenance({
        ...backend,
        ...options,
        signal,
        tasks: { long: { everyMs: 60 * 60 * 1_000, run } },
        onDone: (task) => done.push(task),
        onFailed: (task) => failures.push(task),
      });
    const ending = await start(abort.signal, () => {
      isBegun = true;
      return new Promise(() => {});
    });
    await waitFor(() => isBegun, { description: 'the task' });
    abort.abort();
    await ending.close();
    expect(done).not.toContain('long');
    const other = await start(options.signal, async () => {});
    await waitFor(() => done.includes('long'), { description: 'the task to be done' });
    await other.close();
    expect(failures).toEqual([]);
    await backend.drop();
  },
);

test('with the queue on PostgreSQL, maintenance removes only expired records of idempotency keys', async () => {
  const backend = await createBackend(undefined);
  const { idempotency, close } = await connectQueueBackend({ ...backend, ...options }, 'producer', options);
  const [over, kept] = ['over------------', 'kept------------'];
  const toRequest = (id: string) => ({ id, fingerprint: 'bodyBody', projectId: 1 });
  await idempotency.remember(0, [over, kept].map(toRequest));
  const [, record] = await idempotency.read(0, [over, kept]);
  await changeVersion(backend, { shard: 0, shards: 1, id: over }, Date.now() * 1_000 - RECORD_TTL_US - 1_000_000);
  const maintenance = await startMaintenance({
    ...backend,
    ...options,
    tasks: {},
    onDone: () => {},
    onFailed: () => {},
  });
  const isSwept = async () => {
    const text = 'SELECT fingerprint FROM admission.idempotency_records';
    return (await query(backend.databaseUrl, text)).length < 2;
  };
  await waitFor(isSwept, { description: 'the removal' });
  expect(await idempotency.read(0, [over, kept])).toEqual([undefined, record]);
  await maintenance.close();
  await close();
  await backend.drop();
});

test('workers and maintenance close even if Redis goes down at that moment', async () => {
  const countTimers = () => process.getActiveResourcesInfo().filter((type) => type === 'Timeout').length;
  const before = countTimers();
  const proxy = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
  const backend = await createBackend(proxy.url);
  const place = { ...backend, ...options };
  const maintenance = await startMaintenance({ ...place, tasks: {}, onDone: () => {}, onFailed: () => {} });
  const worker = await createEntryWorker({ ...place, ...IDLE_WORKER });
  worker.start();
  await worker.check();
  await proxy.cut();
  // Neither would close if it waited for Redis.
  await Promise.all([maintenance.close(), worker.close()]);
  // If BullMQ abandons its wait for jobs, it leaves a timer of 11 s.
  await waitFor(() => countTimers() <= before, { description: 'that timer to end', timeoutMs: 20_000 });
  await backend.drop();
});

test('on a Redis master without its required replica, maintenance starts only when the replica is there', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'opm-maintenance-'));
  const redis = await startLocalRedis({ directory, flags: ['--min-replicas-to-write', '1'] });
  const errors: string[] = [];
  const done: string[] = [];
  const starting = startMaintenance({
    ...options,
    databaseUrl: '',
    redisUrl: redis.url,
    prefix: 'opm',
    tasks: {},
    onDone: (task) => done.push(task),
    onFailed: () => {},
    onError: ({ message }) => errors.push(message),
  });
  const isRefused = () => errors.filter((message) => message.includes('NOREPLICAS')).length > 2;
  await Promise.race([starting, waitFor(isRefused, { description: 'the refusals' })]);
  expect(done).toEqual([]);
  await withRedis(redis.url, (client) => client.config('SET', 'min-replicas-to-write', '0'));
  const maintenance = await starting;
  await waitFor(() => done.includes('clear-leftovers'), { description: 'the task' });
  await maintenance.close();
  await redis.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

test.each(BACKENDS)('on %s tasks continue after the queue’s store comes back empty', async (_, createBackend) => {
  const backend = await createBackend();
  let runs = 0;
  const { close } = await startMaintenance({
    ...{ ...backend, ...options },
    tasks: { count: { everyMs: 1_000, run: async () => void runs++ } },
    repairEveryMs,
    ...{ onDone: () => {}, onFailed: () => {} },
  });
  await waitFor(() => runs > 0, { description: 'the first run' });
  await emptyStore(backend);
  const runsBefore = runs;
  await waitFor(() => runs > runsBefore + 1, { description: 'runs after the store was emptied' });
  await close();
  await backend.drop();
});

test.each(BACKENDS)('on %s tasks continue after the clock was an hour ahead', async (_, createBackend) => {
  const backend = await createBackend();
  const own = Date.now;
  Date.now = () => own() + 60 * 60 * 1_000;
  let runs = 0;
  let close: (() => Promise<void>) | undefined;
  try {
    ({ close } = await startMaintenance({
      ...{ ...backend, ...options },
      tasks: { count: { everyMs: 1_000, run: async () => void runs++ } },
      repairEveryMs,
      ...{ onDone: () => {}, onFailed: () => {} },
    }));
    await waitFor(() => runs > 1, { description: 'runs while the clock is ahead' });
    Date.now = own;
    const runsBefore = runs;
    await waitFor(() => runs > runsBefore + 1, { description: 'runs after the clock was set back' });
  } finally {
    Date.now = own;
    await close?.();
    await backend.drop();
  }
});

test.each(BACKENDS)('on %s a task whose next run is lost continues', async (_, createBackend) => {
  const backend = await createBackend();
  let runs = 0;
  const { close } = await startMaintenance({
    ...{ ...backend, ...options },
    tasks: { count: { everyMs: 1_000, run: async () => void runs++ } },
    repairEveryMs,
    ...{ onDone: () => {}, onFailed: () => {} },
  });
  await waitFor(() => runs > 0, { description: 'the first run' });
  await waitFor(() => loseNextRun(backend), { description: 'the next run to be scheduled' });
  const runsBefore = runs;
  await waitFor(() => runs > runsBefore + 2, { description: 'runs after one was lost' });
  await close();
  await backend.drop();
});

/** @returns whether there was one */
async function loseNextRun({ redisUrl, prefix, databaseUrl }: Backend): Promise<boolean> {
  if (redisUrl === undefined) {
    const lose = `DELETE FROM bullmq.job WHERE queue = 'maintenance' AND name = 'count' AND state = 'delayed' RETURNING id`;
    return (await query(databaseUrl, lose)).length > 0;
  }
  return withRedis(redisUrl, async (redis) => {
    const [delayed = ''] = await redis.keys(`*${prefix}*:maintenance:delayed`);
    const jobs = (await redis.zrange(delayed, 0, '-1')).filter((id) => id.startsWith('repeat:count:'));
    return jobs.length > 0 && (await redis.zrem(delayed, ...jobs)) > 0;
  });
}

const DEADLOCK_DETECTED = '40P01';

async function emptyStore({ redisUrl, prefix, databaseUrl }: Backend): Promise<void> {
  if (redisUrl === undefined) {
    const tables = await query<{ name: string }>(
      databaseUrl,
      "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname = 'bullmq' AND tablename !~ 'migration'",
    );
    const truncate = `TRUNCATE ${tables.map(({ name }) => name).join(', ')}`;
    // BullMQ works with these tables meanwhile, and may lock them in another order. PostgreSQL then chooses who fails.
    const isTruncated = () =>
      query(databaseUrl, truncate).then(
        () => true,
        (error: { code?: string }) => {
          if (error.code !== DEADLOCK_DETECTED) throw error;
          return false;
        },
      );
    await waitFor(isTruncated, { description: 'the tables to be empty' });
    return;
  }
  await withRedis(redisUrl, async (redis) => {
    const keys = await redis.keys(`{${prefix}-*`);
    if (keys.length > 0) await redis.del(...keys);
  });
}
