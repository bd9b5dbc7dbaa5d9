import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { Fault } from '@opm/contract';
import { toState } from '@opm/core';
import {
  type ChunkEntry,
  createEntryQueue,
  type DashboardQueues,
  type EntryQueue,
  openDashboardQueues,
  parseChunk,
} from '@opm/queue';
import { createLogger } from '@opm/runtime';
import { createStore, type Store } from '@opm/store';
import { ANSWER_TIMEOUT_MS, BACKENDS, type Backend, query, startApp, type TestApp, waitFor } from '@opm/testkit';
import { toTimeBudget } from '../apps/ingress/src/config.js';
import { createAcceptEntry } from '../apps/ingress/src/ingest/accept-entry.js';
import type { EntryInput, Verdict } from '../apps/ingress/src/ingest/call.js';
import { CircuitBreaker } from '../apps/ingress/src/ingest/circuit-breaker.js';
import { createFindExisting } from '../apps/ingress/src/ingest/find-existing.js';
import { createChunkPartitions } from '../apps/ingress/src/ingest/partitions.js';

const logger = createLogger({ name: 'test', level: 'silent' });
const budget = toTimeBudget(ANSWER_TIMEOUT_MS);
const ignore = () => {};
const options = { shards: 1, signal: new AbortController().signal, onError: ignore };
const PHONE = { phone: '+1' };
/** A trigger that makes PostgreSQL reject customers whose id ends with "bad". */
const REFUSE_BAD = `
  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.customer_id LIKE '%bad' THEN RAISE 'refused' USING ERRCODE = 'check_violation'; END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER refuse BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION refuse()`;

describe.each(BACKENDS)('chunks of several projects, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let queue: EntryQueue;
  let dashboard: DashboardQueues;
  let worker: TestApp | undefined;
  let nextProject = 1;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, poolSize: 4, applicationName: 'test' });
    queue = await createEntryQueue({ ...backend, ...options });
    dashboard = await openDashboardQueues({ ...backend, ...options });
  });
  afterEach(async () => {
    worker ??= await startApp('worker', backend.env);
    await untilDone();
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
    worker = undefined;
  });
  afterAll(async () => {
    await dashboard.close();
    await queue.close();
    await store.close();
    await backend.drop();
  });

  const newProjects = (count: number) => Array.from({ length: count }, () => nextProject++);
  const jobsOf = () => dashboard.queues[0]?.getJobs(['waiting', 'prioritized'], 0, 1_000, true) ?? [];
  const readChunks = async () => (await jobsOf()).map(({ data }) => parseChunk(data).entries);
  const untilDone = () =>
    waitFor(async () => (await queue.load()).entries === 0 && (await jobsOf()).length === 0, {
      description: 'an empty queue',
    });
  const find = async (projectId: number, customerId: string) => store.customers.find(projectId, customerId);

  type IngressOptions = { maxPending?: number; backlogs?: [projectId: number, entries: number][]; failing?: number };

  /** Runs the ingress's code from the entry to the queue. `failing`: a priority whose jobs are not stored. */
  function createIngress({ maxPending = 10_000, backlogs = [], failing }: IngressOptions = {}) {
    const admissions: number[] = [];
    const jobs: { priority: number; entries: ChunkEntry[] }[] = [];
    const chunkPartitions = createChunkPartitions(1);
    chunkPartitions.onBacklogs(0, new Map(backlogs));
    const { acceptEntry, acceptEntries, acceptPart } = createAcceptEntry({
      queue: {
        ...queue,
        admit(shard, entries, parts) {
          admissions.push(entries.length);
          return queue.admit(shard, entries, parts);
        },
        async enqueue(shard, chunk, priority = 0) {
          if (priority === failing) throw new Fault('QUEUE_UNAVAILABLE');
          jobs.push({ priority, entries: chunk.entries });
          return queue.enqueue(shard, chunk, priority);
        },
      },
      findExisting: createFindExisting({
        query: store.customers.findExisting,
        maxInFlight: 4,
        timeoutMs: budget.lookUpMs,
        breaker: new CircuitBreaker({ onFailure: ignore }),
        onUnknown: ignore,
      }),
      chunkPartitions,
      maxInFlight: 4,
      budget,
      maxEntries: 200,
      maxPending,
      isAbandoned: () => false,
      ...{ onChunk: ignore, onRecordBytes: ignore, onShed: ignore },
      logger,
    });
    const toRequester = (projectId: number) => ({
      ...{ projectId, startedAt: performance.now(), bodyBytes: 0, socket: { destroyed: false } },
    });
    return {
      admissions,
      jobs,
      acceptKeyed: (projectId: number, id: string, entries: EntryInput[]) =>
        acceptPart(toRequester(projectId), { id, fingerprint: 'abcdefgh', entries }),
      accept: (projectId: number, entry: EntryInput) => acceptEntry(toRequester(projectId), entry),
      acceptAll: (projectId: number, entries: EntryInput[]) => acceptEntries(toRequester(projectId), entries),
    };
  }

  test('simultaneous entries of a hundred projects become two jobs, and each project gets its own answers and rows', async () => {
    const { accept } = createIngress();
    const projects = newProjects(100);
    const post = (fields: object) =>
      Promise.all(
        ['same', 'another', 'third'].flatMap((customerId) =>
          projects.map((projectId) =>
            accept(projectId, { customerId, fields: { ...fields, firstName: `${projectId}` } }),
          ),
        ),
      );
    expect((await post(PHONE)).filter(({ existed }) => existed)).toEqual([]);
    expect((await readChunks()).map(({ length }) => length).sort()).toEqual([100, 200]);
    expect((await post({ email: 'a@example.com' })).filter(({ existed }) => !existed)).toEqual([]);
    worker = await startApp('worker', backend.env);
    await untilDone();
    for (const projectId of projects) {
      const row = { phone: '+1', email: 'a@example.com', firstName: `${projectId}` };
      expect(await find(projectId, 'same')).toMatchObject(row);
    }
    // The claims are gone, so the rows decide.
    expect((await post(PHONE)).filter(({ existed }) => !existed)).toEqual([]);
  });

  test('the same customer id may be known in one project and new in another', async () => {
    const { accept } = createIngress();
    const [known, unknown] = newProjects(2) as [number, number];
    await accept(known, { customerId: 'a', fields: PHONE });
    worker = await startApp('worker', backend.env);
    await untilDone();
    const verdicts = await Promise.all(
      [unknown, known, unknown].map((projectId, i) =>
        accept(projectId, { customerId: i === 2 ? 'b' : 'a', fields: PHONE }),
      ),
    );
    expect(verdicts.map(({ existed }) => existed)).toEqual([false, true, false]);
  });

  const existedOf = (results: (Verdict | Fault | undefined)[]) =>
    results.map((result) => (result && 'existed' in result ? result.existed : undefined));

  test('projects with different backlogs are admitted together, and get their own answers and a job per priority', async () => {
    const [long, short, medium] = newProjects(3) as [number, number, number];
    for (const [projectId, customerId] of [
      [long, 'a'],
      [medium, 'b'],
    ] as const) {
      const state = toState({ customerId, version: 1, fields: PHONE });
      await store.customers.upsert([{ projectId, customerId, state }]);
    }
    const backlogs: [number, number][] = [
      [long, 10_000],
      [short, 10],
      [medium, 1_000],
    ];
    const { accept, acceptAll, acceptKeyed, admissions, jobs } = createIngress({ backlogs });
    const toEntry = (customerId: string, phone = '+1') => ({ customerId, fields: { phone } });
    const singles = [long, short, medium, long, short, medium].flatMap((projectId) =>
      ['a', 'b'].map((customerId) => accept(projectId, toEntry(customerId))),
    );
    const [verdicts, batch, keyed] = await Promise.all([
      Promise.all(singles),
      acceptAll(medium, [toEntry('batch', '+2'), toEntry('b'), toEntry('batch', '+3')]),
      acceptKeyed(long, 'a keyed request1', [toEntry('keyed'), toEntry('a')]),
    ]);
    const [first, second] = [existedOf(verdicts.slice(0, 6)), existedOf(verdicts.slice(6))];
    expect(first).toEqual([...[true, false], ...[false, false], ...[false, true]]); // as in the rows
    expect(second).toEqual([true, true, true, true, true, true]); // as in the posts before
    expect([existedOf(batch), existedOf(keyed)]).toEqual([
      [false, true, true],
      [false, true],
    ]);

    expect(admissions).toEqual([singles.length + batch.length + keyed.length]);
    expect(jobs.map(({ priority }) => priority)).toEqual([0, 1, 2]);
    for (const [i, projectId] of [short, medium, long].entries()) {
      const { entries } = jobs[i] as (typeof jobs)[number];
      expect(new Set(entries.map((entry) => entry.projectId))).toEqual(new Set([projectId]));
      const [oldest] = entries as [ChunkEntry];
      expect(entries.map(({ version }) => version - oldest.version)).toEqual(entries.map((_entry, place) => place));
    }
    const stored = jobs.flatMap(({ entries }) => entries);
    for (const [i, { version }] of verdicts.entries()) {
      const own = stored.find((entry) => entry.version === version);
      expect([own?.projectId, own?.customerId]).toEqual([[long, short, medium][(i >> 1) % 3], i % 2 ? 'b' : 'a']);
    }
    const inOrder = jobs[1]?.entries.filter(({ customerId }) => customerId === 'batch');
    expect(inOrder?.map(({ fields }) => fields?.phone)).toEqual(['+2', '+3']);

    // A repeat of the keyed request, admitted together with entries of another priority, gets the first answers.
    const [repeat, other] = await Promise.all([
      acceptKeyed(long, 'a keyed request1', [toEntry('keyed'), toEntry('a')]),
      accept(short, toEntry('c')),
    ]);
    expect(repeat).toEqual(keyed.map((verdict) => ({ ...verdict, isReplayed: true })));
    expect(other.existed).toBe(false);
    expect(admissions).toHaveLength(2);
  });

  test('if a job of an admission is not stored, all its entries are refused, and a later post of a customer is its first', async () => {
    const projects = newProjects(2) as [number, number];
    const backlogs: [number, number][] = [[projects[0], 1_000]];
    const failing = createIngress({ backlogs, failing: 1 });
    const post = ({ accept }: ReturnType<typeof createIngress>) =>
      Promise.allSettled(projects.map((projectId) => accept(projectId, { customerId: 'new', fields: PHONE })));
    const refused = { status: 'rejected', reason: expect.objectContaining({ code: 'QUEUE_UNAVAILABLE' }) };
    expect(await post(failing)).toEqual([refused, refused]);
    const created = { status: 'fulfilled', value: expect.objectContaining({ existed: false }) };
    expect(await post(createIngress({ backlogs }))).toEqual([created, created]);
  });

  test('a batch whose entries go into two chunks gets its verdicts in order', async () => {
    const { accept, acceptAll } = createIngress();
    const [projectId] = newProjects(1) as [number];
    for (const customerId of ['known', 'erased']) await accept(projectId, { customerId, fields: PHONE });
    await accept(projectId, { customerId: 'erased', erase: true }); // its next entries go into chunks of their own
    const ids = ['new', 'erased', 'known', 'erased', 'new', 'other'];
    const verdicts = await acceptAll(
      projectId,
      ids.map((customerId) => ({ customerId, fields: PHONE })),
    );
    expect(verdicts.map((verdict) => 'existed' in verdict && verdict.existed)).toEqual([
      ...[false, false, true, true, true, false],
    ]);
    const chunks = (await readChunks()).map((entries) => entries.map(({ customerId }) => customerId).join());
    expect(chunks).toEqual(expect.arrayContaining(['new,known,new,other', 'erased,erased']));
  });

  test('a busy project leaves most of a chunk to others, and its batch stays together', async () => {
    const { accept, acceptAll } = createIngress();
    const [busy, ...quiet] = newProjects(51) as [number, ...number[]];
    const entries = Array.from({ length: 150 }, (_entry, i) => ({ customerId: `c${i}`, fields: PHONE }));
    const posts = [
      ...Array.from({ length: 400 }, (_post, i) => accept(busy, { customerId: `single ${i}`, fields: PHONE })),
      acceptAll(busy, entries),
      ...quiet.map((projectId) => accept(projectId, { customerId: 'a', fields: PHONE })),
    ];
    await Promise.all(posts);
    const chunks = await readChunks();
    const countQuiet = (chunk: ChunkEntry[]) => chunk.filter(({ projectId }) => projectId !== busy).length;
    // All in the chunk that is filled first.
    expect(chunks.map(countQuiet).filter((count) => count > 0)).toEqual([quiet.length]);
    expect(chunks.filter((chunk) => chunk.some(({ customerId }) => customerId === 'c0'))).toHaveLength(1);
    const withBatch = chunks.find((chunk) => chunk.some(({ customerId }) => customerId === 'c0')) ?? [];
    const batch = withBatch.filter(({ customerId }) => customerId.startsWith('c'));
    expect(batch.map(({ customerId }) => customerId)).toEqual(entries.map(({ customerId }) => customerId));
    for (const chunk of chunks) expect(chunk.length).toBeLessThanOrEqual(200);
  });

  test('large entries fill a chunk by their bytes', async () => {
    const { accept } = createIngress();
    const [one, other] = newProjects(2) as [number, number];
    const large = { ...PHONE, firstName: 'x'.repeat(10_000) };
    const posts = Array.from({ length: 24 }, (_post, i) =>
      accept(i % 2 ? one : other, { customerId: `${i}`, fields: large }),
    );
    await Promise.all(posts);
    expect((await readChunks()).map(({ length }) => length)).toEqual([6, 6, 6, 6]);
  });

  test('an erasure and the entries of its customer get their own chunk, so that no other entry waits for the look-up', async () => {
    const { accept } = createIngress();
    const [erasing, other] = newProjects(2) as [number, number];
    await Promise.all([
      accept(erasing, { customerId: 'a', fields: PHONE }),
      accept(erasing, { customerId: 'a', erase: true }),
      accept(other, { customerId: 'a', fields: PHONE }),
      accept(erasing, { customerId: 'a', fields: PHONE }),
      accept(erasing, { customerId: 'b', fields: PHONE }),
    ]);
    const kinds = (await readChunks()).map((chunk) =>
      chunk.map(
        ({ projectId, customerId, erase }) => `${projectId === other ? 'other' : customerId}${erase ? '!' : ''}`,
      ),
    );
    expect(kinds.sort()).toEqual([
      ['a!', 'a'],
      ['a', 'other', 'b'],
    ]);
  });

  test('if too many entries wait, the project with the most is refused, not the next one to send', async () => {
    const { accept } = createIngress({ maxPending: 10 });
    const [busy, quiet] = newProjects(2) as [number, number];
    const posts = Array.from({ length: 10 }, (_post, i) => accept(busy, { customerId: `${i}`, fields: PHONE }));
    expect(() => accept(busy, { customerId: 'one more', fields: PHONE })).toThrow('too many requests at once');
    posts.push(accept(quiet, { customerId: 'a', fields: PHONE }));
    expect(() => accept(busy, { customerId: 'one more', fields: PHONE })).toThrow('too many requests at once');
    for (let i = 0; i < 4; i++) posts.push(accept(quiet, { customerId: `${i}`, fields: PHONE }));
    expect(() => accept(quiet, { customerId: 'above its half', fields: PHONE })).toThrow('too many requests at once');
    await Promise.all(posts);
    await expect(accept(busy, { customerId: 'one more', fields: PHONE })).resolves.toBeDefined();
  });

  test('entries that the database rejects become dead letters of their project, and all others of the chunk become rows', async () => {
    const { accept } = createIngress();
    const [bad, ...good] = newProjects(20) as [number, ...number[]];
    const post = async (customerId: string) => {
      await Promise.all([
        accept(bad, { customerId: `${customerId} bad`, fields: PHONE }),
        accept(bad, { customerId, fields: PHONE }),
        ...good.map((projectId) => accept(projectId, { customerId, fields: PHONE })),
      ]);
    };
    await query(backend.databaseUrl, REFUSE_BAD);
    await post('first');
    worker = await startApp('worker', backend.env);
    await untilDone();
    const countStatements = async () => (await worker?.readMetric('opm_statement_rows_count')) ?? 0;
    const before = await countStatements();
    await post('second');
    await untilDone();
    // One statement has the entries of the other projects, one tries the entries of the bad project one by one.
    expect((await countStatements()) - before).toBeLessThanOrEqual(2);
    for (const projectId of [bad, ...good]) expect(await find(projectId, 'second')).toBeDefined();
    const letters = await store.deadLetters.list({}, { limit: 10 });
    expect(letters.map(({ projectId, customerId }) => [projectId, customerId]).sort()).toEqual([
      [bad, 'first bad'],
      [bad, 'second bad'],
    ]);
  });

  test('a queue with jobs of the previous release is drained, and nothing counts as waiting afterwards', async () => {
    const [old, current] = newProjects(2) as [number, number];
    const version = Date.now() * 1_000;
    const data = { v: 2, projectId: old, version, customerIds: ['a', 'b'], phone: ['+1', null], erased: [1] };
    await dashboard.queues[0]?.add('chunk', data, { jobId: `${version}-${old}x2-1f3a9c2e`, removeOnComplete: true });
    await createIngress().accept(current, { customerId: 'a', fields: PHONE });
    worker = await startApp('worker', backend.env);
    // This queue did not count the old job, so the count may be 0 while one of the two is in flight.
    await waitFor(async () => (await find(old, 'a')) && (await find(current, 'a')), { description: 'the rows' });
    await untilDone();
    expect(await find(old, 'a')).toMatchObject(PHONE);
    expect(await find(old, 'b')).toBeUndefined();
    expect(await find(current, 'a')).toMatchObject(PHONE);
    expect(await queue.readClaims(0, old, [{ customerId: 'a' }, { customerId: 'b' }])).toEqual([undefined, undefined]);
  });
});
