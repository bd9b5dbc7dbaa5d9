import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  BACKENDS,
  type Backend,
  createBackend,
  query,
  startProxy,
  startRedisCluster,
  waitFor,
  withRedis,
} from '@opm/testkit';
import type { Queue } from 'bullmq';
import { toJobId } from '../src/chunk.js';
import { type ClearLeftovers, createClearLeftovers } from '../src/clear-leftovers.js';
import { createEntryQueue, type EntryQueue, shardOf, startMaintenance, toHashTag } from '../src/index.js';
import { connectQueueBackend } from '../src/queue-backend.js';
import { type QueueBackend, toAddresses } from '../src/queue-store.js';

const SHARDS = 3;
const PROJECT = 1;
const options = { shards: SHARDS, signal: new AbortController().signal, onError: () => {} };

/** An entry queue with its cleanup. By default, a claim is old as soon as it was observed. */
type Place = {
  backend: Backend;
  store: QueueBackend;
  queue: EntryQueue;
  queues: Queue[];
} & ClearLeftovers;

async function openPlace(backend: Backend, orphanAgeMs = 0): Promise<Place> {
  const store = await connectQueueBackend({ ...backend, shards: SHARDS }, 'worker', options);
  const queues = await Promise.all(toAddresses(SHARDS).map((address) => store.openQueue(address)));
  const queue = await createEntryQueue({ ...backend, ...options });
  return {
    backend,
    store,
    queue,
    queues,
    ...createClearLeftovers(store.admission, queues, store.readClock, orphanAgeMs),
  };
}

async function closePlace({ queue, store }: Place): Promise<void> {
  await queue.close();
  await store.close();
}

/** Returns the id of a customer in this shard. */
function customerOf(shard: number, name: string): string {
  for (let n = 0; ; n++) if (shardOf(PROJECT, `${name} ${n}`, SHARDS) === shard) return `${name} ${n}`;
}

/** Admits without enqueueing, like an ingress that is killed in between. */
async function admit({ queue }: Place, shard: number, ...names: string[]) {
  const requests = names.map((name) => ({ projectId: PROJECT, customerId: customerOf(shard, name) }));
  const { admitted } = await queue.admit(shard, requests);
  return admitted;
}

async function enqueue(place: Place, shard: number, names: string[], email = 'jane@example.com') {
  const admitted = await admit(place, shard, ...names);
  const entries = admitted.map(({ projectId, customerId, version }) => ({
    ...{ projectId, customerId, version, fields: { email } },
  }));
  await place.queue.enqueue(shard, { entries });
}

async function hasClaim({ queue }: Place, shard: number, name: string): Promise<boolean> {
  const [claim] = await queue.readClaims(shard, PROJECT, [{ customerId: customerOf(shard, name) }]);
  return claim !== undefined;
}

/** Raises the shard's version, as if the store's clock had been ahead. */
async function raiseVersion({ redisUrl, prefix, databaseUrl }: Backend, shard: number, byMs: number): Promise<void> {
  if (redisUrl === undefined) {
    const text = `UPDATE admission.shards SET last_version = last_version + ${byMs * 1_000} WHERE shard = ${shard}`;
    await query(databaseUrl, text);
    return;
  }
  const key = `${toHashTag(prefix, shard, SHARDS)}:version`;
  await withRedis(redisUrl, (redis) => redis.incrby(key, byMs * 1_000));
}

describe.each(BACKENDS)('leftovers of a killed ingress on %s:', (_, createPlace) => {
  let place: Place;
  beforeEach(async () => {
    place = await openPlace(await createPlace());
  });
  afterEach(async () => {
    await closePlace(place);
    await place.backend.drop();
  });

  test('the backlog of each shard is corrected to the entries in its jobs', async () => {
    await enqueue(place, 0, ['a', 'b']);
    await enqueue(place, 0, ['c']);
    await enqueue(place, 1, ['d']);
    await admit(place, 0, 'lost', 'lost too');
    await admit(place, 2, 'lost');
    await place.queue.admit(1, [{ projectId: 2, customerId: 'of another project' }]);
    expect((await place.queue.load()).entries).toBe(8);
    await place.clear();
    expect((await place.queue.load()).entries).toBe(4);
    await place.store.admission.correctBacklog(0, { entries: -2, ofProjects: new Map() });
    expect((await place.queue.load()).entries).toBe(2);
    await place.clear();
    expect((await place.queue.load()).entries).toBe(4);
  });

  test('entries that wait in a paused queue keep their claims and their place in the backlog', async () => {
    await enqueue(place, 0, ['a', 'b']);
    await place.queues[0]?.pause();
    for (let round = 0; round < 3; round++) await place.clear();
    expect(await hasClaim(place, 0, 'a')).toBe(true);
    expect((await place.queue.load()).entries).toBe(2);
  });

  test('a project’s backlog is corrected to the sampled count of its entries in the jobs', async () => {
    const names = (count: number) => Array.from({ length: count }, (_, i) => `c ${i}`);
    await enqueue(place, 0, names(160));
    const { ofProjects } = await place.store.admission.readShardBacklog(0);
    expect(ofProjects).toEqual(new Map([[PROJECT, 160]]));
    await admit(place, 0, ...names(320));
    await place.queue.admit(
      0,
      names(32).map((customerId) => ({ projectId: 2, customerId })),
    );
    await place.clear();
    expect((await place.store.admission.readShardBacklog(0)).ofProjects).toEqual(ofProjects);
  });

  test('if no entry waits, claims observed 30 s ago are removed, and younger ones stay', async () => {
    await admit(place, 0, 'orphan');
    await place.observe();
    await admit(place, 0, 'young');
    await place.clear();
    expect([await hasClaim(place, 0, 'orphan'), await hasClaim(place, 0, 'young')]).toEqual([false, true]);
  });

  test('claims observed less than 30 s ago stay', async () => {
    const { observe, clear } = createClearLeftovers(place.store.admission, place.queues, place.store.readClock);
    await admit(place, 0, 'young');
    await observe();
    await clear();
    expect(await hasClaim(place, 0, 'young')).toBe(true);
  });

  test('a claim is removed even if the store’s clock was an hour ahead when it was made', async () => {
    await admit(place, 0, 'before');
    await raiseVersion(place.backend, 0, 3_600_000);
    await admit(place, 0, 'orphan');
    await place.observe();
    await place.clear();
    expect([await hasClaim(place, 0, 'before'), await hasClaim(place, 0, 'orphan')]).toEqual([false, false]);
  });

  test('a young claim stays even if the store’s clock has jumped ahead since', async () => {
    await admit(place, 0, 'young');
    await raiseVersion(place.backend, 0, 3_600_000);
    await place.clear();
    expect(await hasClaim(place, 0, 'young')).toBe(true);
  });

  test('a claim stays if its shard repeats versions that were observed, because it may be new', async () => {
    await admit(place, 0, 'first');
    await raiseVersion(place.backend, 0, 3_600_000);
    await place.observe();
    await raiseVersion(place.backend, 0, -3_600_000);
    await admit(place, 0, 'young');
    await place.observe();
    await admit(place, 0, 'younger');
    await place.clear();
    expect(await hasClaim(place, 0, 'younger')).toBe(true);
  });

  test('while entries wait in a shard, only claims older than all of them are removed', async () => {
    await admit(place, 1, 'orphan');
    await enqueue(place, 1, ['waiting']);
    await admit(place, 1, 'newer');
    await place.observe();
    await place.clear();
    const claims = await Promise.all(['orphan', 'waiting', 'newer'].map((name) => hasClaim(place, 1, name)));
    expect(claims).toEqual([false, true, true]);
  });

  test('entries that wait in one shard do not keep claims in another', async () => {
    await enqueue(place, 1, ['waiting']);
    await admit(place, 0, 'newer');
    await admit(place, 1, 'newer');
    await place.observe();
    await place.clear();
    expect([await hasClaim(place, 0, 'newer'), await hasClaim(place, 1, 'newer')]).toEqual([false, true]);
  });

  test('claims older than the waiting jobs are removed, however many jobs wait', async () => {
    for (const shard of [0, 1]) await admit(place, shard, 'orphan');
    await place.observe();
    for (let i = 0; i < 250; i++) await enqueue(place, 1, [`waiting ${i}`]);
    await place.clear();
    expect([await hasClaim(place, 0, 'orphan'), await hasClaim(place, 1, 'orphan')]).toEqual([false, false]);
    expect((await place.queue.load()).entries).toBe(250);
  });

  test('jobs with ids of older releases, which do not contain their entries, keep the claims of their shard', async () => {
    for (const shard of [0, 1]) await admit(place, shard, 'orphan');
    await place.observe();
    const lost = Array.from({ length: 1_500 }, (_, i) => ({ projectId: PROJECT, customerId: `lost ${i}` }));
    await place.queue.admit(1, lost);
    await place.queues[1]?.add('chunk', {});
    await place.clear();
    expect([await hasClaim(place, 0, 'orphan'), await hasClaim(place, 1, 'orphan')]).toEqual([false, true]);
    expect((await place.queue.load()).entries).toBe(1_000); // the maximum for such a job
  });

  test('active, delayed and prioritized jobs count like waiting jobs', async () => {
    await enqueue(place, 0, ['under way']);
    const worker = await place.store.openWorker(
      { name: 'entries-0', shard: { index: 0, of: SHARDS } },
      async () => {},
      {
        autorun: false,
      },
    );
    await worker.getNextJob('token');
    const [first, second] = await admit(place, 0, 'put off', 'behind others');
    const toChunk = (version = 0) => ({
      entries: [{ projectId: PROJECT, customerId: 'jane', version, fields: { phone: '+1' } }],
    });
    await place.queues[0]?.add('chunk', {}, { jobId: toJobId(toChunk(first?.version)), delay: 3_600_000 });
    await place.queue.enqueue(0, toChunk(second?.version), 1_000_000);
    const counts = await place.queues[0]?.getJobCounts('waiting', 'active', 'delayed', 'prioritized');
    expect(counts).toEqual({ waiting: 0, active: 1, delayed: 1, prioritized: 1 });

    await admit(place, 0, 'lost');
    await place.clear();
    expect((await place.queue.load()).entries).toBe(3);
  });

  test('finished entries of a postponed job are not counted again', async () => {
    const [held, done] = await admit(place, 0, 'held', 'done');
    const entries = [held, done].map((it) => ({
      ...{ projectId: PROJECT, customerId: it?.customerId ?? '', version: it?.version ?? 0, fields: { phone: '+1' } },
    }));
    await place.queues[0]?.add('chunk', {}, { jobId: toJobId({ entries }), delay: 3_600_000 });
    await place.store.admission.settle(0, entries.slice(1));
    await place.clear();
    expect((await place.queue.load()).entries).toBe(1);
  });

  test('all jobs are counted, even if there are more than BullMQ lists at once', async () => {
    const [first] = await admit(place, 0, ...Array.from({ length: 200 }, (_, i) => `old ${i}`));
    const versions = Array.from({ length: 10_100 }, (_, i) => (first?.version ?? 0) + i);
    const jobs = versions.map((version) => {
      const entries = [{ projectId: PROJECT, customerId: 'jane', version, fields: { phone: '+1' } }];
      return { name: 'chunk', data: {}, opts: { jobId: toJobId({ entries }) } };
    });
    await place.queues[0]?.addBulk(jobs);
    await place.store.admission.correctBacklog(0, { entries: 20_000, ofProjects: new Map() });
    await place.clear();
    expect((await place.queue.load()).entries).toBe(10_100);
  });

  test('a scheduled job does this in one of the workers, at once and then twice a minute', async () => {
    await admit(place, 0, 'lost');
    const done: string[] = [];
    const maintenance = await startMaintenance({
      ...place.backend,
      ...options,
      tasks: {},
      onDone: (task) => done.push(task),
      onFailed: () => {},
    });
    await waitFor(() => done.includes('clear-leftovers'), { description: 'the task' });
    await maintenance.close();
    expect((await place.queue.load()).entries).toBe(0);
  });
});

test.each(BACKENDS)('with %s the cleanup does not load job data', async (_, createPlace) => {
  const backend = await createPlace();
  const place = await openPlace(backend);
  const email = 'x'.repeat(20_000);
  for (let i = 0; i < 200; i++) await enqueue(place, 1, [`waiting ${i}`], email);
  await closePlace(place);

  const proxy = await startProxy(backend.redisUrl ?? backend.databaseUrl);
  const url = backend.redisUrl ? { redisUrl: proxy.url } : { databaseUrl: proxy.url };
  const proxied = await openPlace({ ...backend, ...url });
  const before = proxy.bytesReceived();
  await proxied.clear();
  expect(proxy.bytesReceived() - before).toBeLessThan(100_000);
  await closePlace(proxied);
  await proxy.close();
  await backend.drop();
});

test('while a cluster master is down, the shards of the other masters are cleaned up', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'opm-leftovers-'));
  const cluster = await startRedisCluster({ directory, masters: SHARDS, replicasPerMaster: 0 });
  const backend = await createBackend(cluster.url);
  const place = await openPlace(backend);
  for (const shard of [0, 1, 2]) await admit(place, shard, 'orphan');
  await place.observe();
  const silent = await cluster.findMaster(toHashTag(backend.prefix, 1, SHARDS));
  silent?.signal('SIGSTOP');
  await expect(place.clear()).rejects.toThrow();
  expect([await hasClaim(place, 0, 'orphan'), await hasClaim(place, 2, 'orphan')]).toEqual([false, false]);
  silent?.signal('SIGCONT');
  await cluster.waitUntilWhole();
  await closePlace(place);
  await backend.drop();
  await cluster.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});
