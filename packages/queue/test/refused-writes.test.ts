import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { createBackend, type LocalRedis, query, startLocalRedis, waitFor } from '@opm/testkit';
import { Redis } from 'ioredis';
import { createEntryQueue, createEntryWorker } from '../src/index.js';
import { IDLE_WORKER } from './idle-worker.js';

const options = { shards: 1, prefix: 'opm', signal: new AbortController().signal };
const WATCHED_MS = 3_000;
/** A worker that waits asks once a second. One that does not asks hundreds of times, even on a slow machine. */
const MAX_CALLS_PER_SECOND = 10;

let directory: string;
let redis: LocalRedis;
let control: Redis;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-refused-'));
  redis = await startLocalRedis({ directory, flags: ['--appendonly', 'no'] });
  control = new Redis(redis.url);
});
afterEach(async () => {
  control.disconnect();
  await redis.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

/** Starts a worker, waits until it has done one job, and collects its errors. */
async function startWorker(place: { databaseUrl: string; redisUrl?: string | undefined }) {
  const errors: string[] = [];
  let done = 0;
  const onError = ({ message }: Error) => void errors.push(message);
  const queue = await createEntryQueue({ ...options, ...place, onError: () => {} });
  const worker = await createEntryWorker({
    ...options,
    ...place,
    ...IDLE_WORKER,
    onError,
    process: async () => void done++,
  });
  worker.start();
  const doOne = async () => {
    const before = done;
    const entries = [{ projectId: 1, customerId: 'a', version: 1, fields: { phone: '+1' } }];
    await waitFor(() => queue.enqueue(0, { entries }), { description: 'a job' });
    await waitFor(() => done > before, { description: 'the job to be done' });
  };
  await doOne();
  return { errors, doOne, close: () => Promise.all([queue.close(), worker.close()]) };
}

const untilWatched = async () => {
  const since = performance.now();
  await waitFor(() => performance.now() - since > WATCHED_MS, { description: 'some calls' });
  return (performance.now() - since) / 1_000;
};

test.each<[string, () => Promise<unknown>, () => Promise<unknown>]>([
  [
    'NOREPLICAS',
    () => control.config('SET', 'min-replicas-to-write', '1'),
    () => control.config('SET', 'min-replicas-to-write', '0'),
  ],
  [
    'MISCONF',
    async () => {
      await mkdir(join(directory, 'dump.rdb')); // blocks the dump file
      await control.config('SET', 'save', '3600 1000000');
      await control.bgsave();
      const hasFailed = async () => (await control.info('persistence')).includes('rdb_last_bgsave_status:err');
      await waitFor(hasFailed, { description: 'the save to fail' });
    },
    () => control.config('SET', 'save', ''),
  ],
  ['READONLY', () => control.replicaof('127.0.0.1', '1'), () => control.replicaof('NO', 'ONE')],
])(
  'while Redis rejects writes (%s), a worker asks about once a second, and continues afterwards',
  async (code, refuse, take) => {
    const { errors, doOne, close } = await startWorker({ databaseUrl: '', redisUrl: redis.url });
    await refuse();
    await waitFor(() => errors.some((message) => message.includes(code)), { description: 'a refusal' });
    await control.config('RESETSTAT');
    const seconds = await untilWatched();
    const stats = await control.info('commandstats');
    const scripts = [...stats.matchAll(/^cmdstat_eval\w*:calls=(\d+)/gm)].reduce(
      (sum, [, calls]) => sum + Number(calls),
      0,
    );
    expect(scripts / seconds).toBeLessThan(MAX_CALLS_PER_SECOND);
    await take();
    await doOne();
    await close();
  },
);

test('while PostgreSQL is read-only, a worker asks about once a second, and continues afterwards', async () => {
  const backend = await createBackend(undefined);
  const name = new URL(backend.databaseUrl).pathname.slice(1);
  const ask = (statement: string, values?: string[]) =>
    query(String(process.env.OPM_TEST_ADMIN_URL), statement, values);
  const setReadOnly = async (value: 'on' | 'off') => {
    await ask(`ALTER DATABASE "${name}" SET default_transaction_read_only = ${value}`);
    await ask('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1', [name]);
  };
  const { errors, doOne, close } = await startWorker({ databaseUrl: backend.databaseUrl });
  await setReadOnly('on');
  const refusals = () => errors.filter((message) => message.includes('read-only')).length;
  await waitFor(() => refusals() > 0, { description: 'a refusal' });
  const before = refusals();
  const seconds = await untilWatched();
  expect((refusals() - before) / seconds).toBeLessThan(MAX_CALLS_PER_SECOND);
  await setReadOnly('off');
  await doOne();
  await close();
  await backend.drop();
});
