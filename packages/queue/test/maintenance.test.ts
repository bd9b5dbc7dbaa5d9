import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
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
import { Redis } from 'ioredis';
import pg from 'pg';
import { createEntryQueue, createEntryWorker, type EntryQueue, startMaintenance } from '../src/index.js';
import { IDLE_WORKER } from './idle-worker.js';

const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };

test.each(BACKENDS)(
  'on %s a task runs once per period however many processes there are, also after it has failed',
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
            repeat: { every: 1_000 },
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
    // Runs stand on the period's grid: the fourth is at least two whole periods after the first.
    expect((runs[3] ?? 0) - (runs[0] ?? startedAt)).toBeGreaterThan(2_000);
    expect(failures).toEqual(['count: not now']);
  },
);

test.each(BACKENDS)(
  'on %s a task that is under way does not keep its process from ending, and goes to another process',
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
        tasks: { long: { repeat: { every: 60 * 60 * 1_000 }, run } },
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

test('with the queue on PostgreSQL idempotency keys whose time is over are removed, and others stay', async () => {
  const backend = await createBackend(undefined);
  const queue = await createEntryQueue({ ...backend, ...options });
  const toRequest = (id: string) => ({ id, fingerprint: id, token: id });
  await queue.idempotency.begin(0, [toRequest('over')], 1);
  await queue.idempotency.begin(0, [toRequest('kept')], 60_000);
  const maintenance = await startMaintenance({
    ...backend,
    ...options,
    tasks: {},
    onDone: () => {},
    onFailed: () => {},
  });
  const isSwept = async () => {
    const rows = await query(backend.databaseUrl, 'SELECT id FROM admission.idempotency_keys');
    return rows.length < 2 && rows;
  };
  expect(await waitFor(isSwept, { description: 'the removal' })).toEqual([{ id: 'kept' }]);
  await maintenance.close();
  await queue.close();
  await backend.drop();
});

describe.each(BACKENDS)('what a killed ingress leaves on %s:', (_, createBackend) => {
  let backend: Backend;
  let queue: EntryQueue;
  beforeEach(async () => {
    backend = await createBackend();
    queue = await createEntryQueue({ ...backend, ...options, shards: 2 });
  });
  afterEach(async () => {
    await queue.close();
    await backend.drop();
  });

  const admitOne = async (shard: number, customerId: string) => {
    const { admitted, backlog } = await queue.admit(shard, 1, [{ customerId }]);
    return { previous: admitted[0]?.previous, version: admitted[0]?.version ?? 0, backlog };
  };
  const enqueueOne = async (shard: number, customerId: string, ageMs = 0) => {
    const { version, backlog } = await admitOne(shard, customerId);
    const entries = [{ customerId, version: version - ageMs * 1_000, fields: { phone: '+1' } }];
    await queue.enqueue(shard, { projectId: 1, entries }, backlog);
  };
  const clearLeftovers = async () => {
    const done: string[] = [];
    const maintenance = await startMaintenance({
      ...backend,
      ...options,
      shards: 2,
      tasks: {},
      onDone: (task) => done.push(task),
      onFailed: () => {},
    });
    await waitFor(() => done.includes('clear-leftovers'), { description: 'the task' });
    await maintenance.close();
  };

  test('a backlog that cannot be in the queue is corrected, and one that can be is not', async () => {
    await admitOne(0, 'lost');
    await enqueueOne(1, 'waiting');
    expect((await queue.load()).entries).toBe(2);
    await clearLeftovers();
    expect((await queue.load()).entries).toBe(1);
  });

  test('claims of half a minute ago go when no entry waits, and younger ones stay', async () => {
    await admitOne(0, 'orphan');
    await ageClaims(backend, 31_000);
    await admitOne(0, 'young');
    await clearLeftovers();
    expect((await admitOne(0, 'orphan')).previous).toBeUndefined();
    expect((await admitOne(0, 'young')).previous).toBeDefined();
  });

  test('while entries wait, claims that are older than all of them go, and others stay: they may be theirs', async () => {
    await admitOne(0, 'orphan');
    await ageClaims(backend, 10_000);
    await enqueueOne(1, 'waiting', 31_000);
    await admitOne(0, 'newer');
    await ageClaims(backend, 31_000);
    await clearLeftovers();
    expect((await admitOne(0, 'orphan')).previous).toBeUndefined();
    expect((await admitOne(0, 'newer')).previous).toBeDefined();
    expect((await admitOne(1, 'waiting')).previous).toBeDefined();
  });

  test('where more waits than can be read, claims stay', async () => {
    await admitOne(0, 'orphan');
    await ageClaims(backend, 31_000);
    for (let i = 0; i < 201; i++) await enqueueOne(1, `waiting ${i}`);
    await clearLeftovers();
    expect((await admitOne(0, 'orphan')).previous).toBeDefined();
  });
});

/** As if they had been made earlier. */
async function ageClaims({ redisUrl, prefix, databaseUrl }: Backend, ageMs: number): Promise<void> {
  if (redisUrl === undefined) {
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    await client.query('UPDATE admission.claims SET version = version - $1::bigint', [ageMs * 1_000]);
    return client.end();
  }
  const redis = new Redis(redisUrl);
  for (const claims of await redis.keys(`{${prefix}-*}:claims`)) {
    for (const field of await redis.hkeys(claims)) {
      if (field !== '') await redis.hincrby(claims, field, -2 * ageMs * 1_000);
    }
  }
  redis.disconnect();
}

test('with a Redis that goes away at that very moment, workers and maintenance close all the same', async () => {
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
  // Neither ends as long as it waits for Redis.
  await Promise.all([maintenance.close(), worker.close()]);
  // BullMQ leaves a timer of 11 s behind a wait for jobs that it abandons.
  await waitFor(() => countTimers() <= before, { description: 'that timer to end', timeoutMs: 20_000 });
  await backend.drop();
});

test('on a master that lacks its replica maintenance starts when that is there, and not before', async () => {
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
