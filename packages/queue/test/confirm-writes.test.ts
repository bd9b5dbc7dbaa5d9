import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  createTestDatabase,
  type LocalRedis,
  startLocalRedis,
  type TestDatabase,
  waitFor,
  withRedis,
} from '@opm/testkit';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { QueueBackend } from '../src/queue-store.js';

let directory: string;
let primary: LocalRedis;
let replicas: LocalRedis[];
let backend: QueueBackend;
let database: TestDatabase;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-replicas-'));
  const start = (flags: string[]) =>
    startLocalRedis({ directory, flags: ['--repl-diskless-sync-delay', '0', ...flags] });
  primary = await start([]);
  replicas = await Promise.all([1, 2].map(() => start(['--replicaof', `127.0.0.1 ${primary.port}`])));
  await waitForReplicas(2);
  database = await createTestDatabase();
  backend = await connectQueueBackend(
    {
      databaseUrl: database.url,
      redisUrl: primary.url,
      minReplicas: 2,
      answerTimeoutMs: 10_000,
      prefix: 'opm',
      shards: 1,
    },
    'producer',
    { signal: new AbortController().signal, onError: () => {} },
  );
});
afterAll(async () => {
  await backend?.close();
  await Promise.all([...(replicas ?? []), primary].map((redis) => redis?.stop()));
  await database?.drop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

async function waitForReplicas(count: number): Promise<void> {
  const areThere = async () => (await readInfo()).includes(`connected_slaves:${count}`);
  await waitFor(areThere, { description: `${count} replicas` });
}
const readInfo = () => withRedis(primary.url, (redis) => redis.info('replication'));
const turn = () => new Promise((resolve) => setImmediate(resolve));
const admit = (customerId: string) => backend.admission.admit(0, [{ projectId: 1, customerId }]);

test('an answered write is on all required replicas, also with many concurrent calls', async () => {
  const versionOn = ({ url }: LocalRedis) => withRedis(url, (redis) => redis.get('{opm-0}:version'));
  for (let round = 0; round < 20; round++) {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => admit(`customer ${i}`)));
    const last = Math.max(...answers.map(({ admitted }) => admitted[0]?.version ?? 0));
    expect(await Promise.all(replicas.map(versionOn))).toEqual([String(last), String(last)]);
  }
});

test('while a replica does not answer, calls fail and name the missing replicas; afterwards they work again', async () => {
  const [one] = replicas as [LocalRedis, LocalRedis];
  process.kill(one.pid, 'SIGSTOP');
  try {
    const calls = await Promise.allSettled(Array.from({ length: 5 }, (_, i) => admit(`missing ${i}`)));
    const failed = { status: 'rejected', reason: new Error('only 1 of 2 replicas confirmed the write') };
    expect(calls).toEqual(calls.map(() => failed));
  } finally {
    process.kill(one.pid, 'SIGCONT');
  }
  await waitFor(async () => (await admit('again')).admitted.length === 1, { description: 'the replica' });
});

test('while a WAIT is overdue, later calls fail at once and never run', async () => {
  const [one] = replicas as [LocalRedis, LocalRedis];
  const held: Promise<unknown>[] = [];
  process.kill(one.pid, 'SIGSTOP');
  try {
    const first = admit('first').catch((error) => error.message);
    await turn();
    // Each `WAIT` blocks the connection for half of the answer timeout, and all later commands with it.
    const heldSince = performance.now();
    for (let i = 0; i < 8; i++) {
      held.push(admit(`held ${i}`).catch(() => {}));
      await turn();
    }
    expect(await first).toBe('only 1 of 2 replicas confirmed the write');
    await waitFor(() => performance.now() - heldSince > 5_010, { description: 'the oldest WAIT to be overdue' });
    await expect(admit('late')).rejects.toThrow('replicas do not confirm writes');
  } finally {
    process.kill(one.pid, 'SIGCONT');
  }
  await Promise.all(held);
  await waitFor(async () => (await admit('again')).admitted.length === 1, { description: 'the replica' });
  const claims = await withRedis(primary.url, (redis) => redis.hkeys('{opm-0}:claims'));
  expect(claims).toEqual(expect.arrayContaining(['1:first', '1:held 0', '1:held 7', '1:again']));
  expect(claims).not.toContain('1:late');
});
