import { hash } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, type EntryQueue, shardOf } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import {
  BACKENDS,
  type Backend,
  hasNoJobs,
  startApp,
  startProxy,
  type TcpProxy,
  type TestApp,
  waitFor,
} from '@opm/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { fillShare } from '../../../packages/queue/test/idempotency-share.js';
import { toOwnId } from '../src/ingest/idempotency.js';
import {
  type Answer,
  CREATED,
  expectVerdictsStored,
  REUSED,
  readRecords,
  replayOf,
  type Sent,
  send,
  sendUntilAnswered,
  UPDATED,
} from './keyed-requests.js';
import { readRowVersions, toReceiptOf, toRowVersions } from './receipts.js';

const SHARDS = 3;
const GROUP = 100;
const MANY = 20;
const MAX_TRIES = 1_000;
const MAX_INTERRUPTIONS = 50;
const OLD = 'old@example.com';

/** Sends requests with so many entries, kills the ingress, and returns the answers; undefined if there was none. */
type Way = (requests: Sent[], entries: number) => Promise<(Answer | undefined)[]>;
type Entry = { customerId: string; customerEmail?: string; customerPhone?: string };
type Results = {
  accepted: number;
  rejected: number;
  results: { statusCode: number; message: string }[];
  receipts: (string | null)[];
};

describe.each(BACKENDS)('repeats of unanswered requests with a key, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let queue: EntryQueue;
  let proxy: TcpProxy;
  let env: NodeJS.ProcessEnv;
  /** Has the queue store behind the proxy. */
  let place: NodeJS.ProcessEnv;
  let one: TestApp;
  let other: TestApp;
  let project: { projectId: number; apiKey: string };

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    project = await store.projects.create('acme');
    // The groups of a batch must be the same in all ingresses.
    env = { ...backend.env, QUEUE_SHARDS: String(SHARDS), CHUNK_MAX_ENTRIES: String(GROUP) };
    [one, other] = await Promise.all([startApp('ingress', env), startApp('ingress', env)]);
    proxy = await startProxy(backend.redisUrl ?? backend.databaseUrl);
    place = backend.redisUrl === undefined ? { DATABASE_URL: proxy.url } : { REDIS_URL: proxy.url };
    const options = { shards: SHARDS, signal: new AbortController().signal, onError: () => {} };
    queue = await createEntryQueue({ ...backend, ...options });
    // Until a shard has a version and the store knows the script, an admission needs more than one call.
    const first = { ...fresh(), path: '/entries', body: `[${Array.from({ length: 50 }, () => fresh().body)}]` };
    expect(toResults(await ask(one, first))).toMatchObject({ accepted: 50 });
  });
  afterAll(async () => {
    await Promise.all([one?.stop(), other?.stop()]);
    await queue?.close();
    await store?.close();
    await proxy?.close();
    await backend?.drop();
  });

  let nextId = 1;
  const fresh = () => {
    const entry: Entry = { customerId: `c${nextId++}`, customerPhone: '+1' };
    return { apiKey: project.apiKey, key: toKey(entry.customerId), entry, body: JSON.stringify(entry) };
  };
  /** Returns a key with the customer's shard. Its request is admitted without another call before. */
  function toKey(customerId: string): string {
    for (let i = 0; ; i++) {
      const key = `key-${customerId}-${i}`;
      if (shardOf(project.projectId, customerId, SHARDS) === shardOfKey(key)) return key;
    }
  }
  function shardOfKey(key: string): number {
    const id = toOwnId(hash('sha256', `${project.projectId}:${key}`, 'base64url').slice(0, 16), SHARDS);
    return shardOf(project.projectId, id, SHARDS);
  }
  /** Requests with one key, about customers of its shard. */
  function freshOfOneKey(count: number, key = toKey(`c${nextId++}`)): Sent[] {
    const requests: Sent[] = [];
    while (requests.length < count) {
      const { entry, body } = fresh();
      if (shardOf(project.projectId, entry.customerId, SHARDS) === shardOfKey(key)) requests.push({ key, body });
    }
    return requests;
  }
  const toResults = ({ body }: Answer) => JSON.parse(body) as Results;
  const ask = (ingress: TestApp, sent: Sent) => sendUntilAnswered(ingress, { apiKey: project.apiKey, ...sent });
  const post = (entry: Entry) => ask(one, { body: JSON.stringify(entry) });
  const find = (customerId: string) => store.customers.find(project.projectId, customerId);

  /** Runs a worker until no job is left. */
  async function drain(): Promise<void> {
    const worker = await startApp('worker', { ...backend.env, QUEUE_SHARDS: String(SHARDS) });
    await waitFor(() => hasNoJobs(worker), { description: 'an empty queue' });
    await worker.stop();
  }

  /** Sends through an ingress whose look-ups wait, so that new customers are queued, but not answered. */
  const queueWithoutAnswer: Way = async (requests, entries) => {
    const ingress = await startApp('ingress', env);
    const client = new pg.Client({ connectionString: backend.databaseUrl });
    await client.connect();
    await client.query('BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE');
    const answered = requests.map((sent) => send(ingress, sent).catch(() => undefined));
    const isQueued = async () => (await ingress.readMetric('opm_chunk_entries_sum')) >= entries;
    await waitFor(isQueued, { description: 'the entries to be queued' });
    await ingress.stop('SIGKILL');
    await client.end();
    return Promise.all(answered);
  };

  /** Sends through an ingress that does not get the answers of the queue store. */
  const admitWithoutJob: Way = async (requests) => {
    const ingress = await startApp('ingress', { ...env, ...place });
    // Now it knows the API key, and has several connections to PostgreSQL: a new one would not be opened while answers
    // are held, and the test would have to wait until the requests are refused.
    await Promise.all(Array.from({ length: 30 }, () => ask(ingress, fresh())));
    await expectVerdictsStored(backend);
    const before = new Set((await readRecords(backend)).map(({ id }) => id));
    proxy.hold();
    const answered = requests.map((sent) => send(ingress, sent).catch(() => undefined));
    const isNew = ({ id, state }: { id: string; state: string }) => state.startsWith(':') && !before.has(id);
    const isAdmitted = async () => (await readRecords(backend)).filter(isNew).length === requests.length;
    const refused = Promise.all(answered).then(() => true); // if it needed another connection for the admission
    const isOver = async () => (await isAdmitted()) || Promise.race([refused, false]);
    await waitFor(isOver, { description: 'the entries to be admitted' });
    await ingress.stop('SIGKILL');
    proxy.release();
    return Promise.all(answered);
  };

  /**
   * Interrupts the requests of `create`; others, if a busy machine was too slow to kill the ingress before it answered.
   */
  async function interrupt<T extends { requests: Sent[] }>(way: Way, create: () => Promise<T> | T, entries = 1) {
    for (let i = 0; i < MAX_INTERRUPTIONS; i++) {
      const created = await create();
      const answers = await way(created.requests, entries);
      if (answers.every((answer) => answer === undefined)) return created;
      for (const sent of created.requests) await ask(one, sent);
    }
    throw new Error('each ingress answered before it was killed');
  }

  const WAYS: [string, Way][] = [
    ['was queued', queueWithoutAnswer],
    ['was admitted, but not queued', admitWithoutJob],
  ];

  test.each(WAYS)(
    'the repeat of an entry that %s is a 201 if nothing is newer, and its only one',
    async (_what, way) => {
      const { requests } = await interrupt(way, () => ({ requests: [fresh()] }));
      const [sent] = requests as [ReturnType<typeof fresh>];
      const repeated = await ask(one, sent);
      expect(repeated).toEqual(CREATED);
      await expectVerdictsStored(backend);
      expect(await ask(other, sent)).toEqual(replayOf(repeated));
      expect(await ask(other, { ...sent, key: `${sent.key}-again` })).toEqual(UPDATED);
      expect(await ask(other, { ...sent, body: fresh().body })).toEqual(REUSED);
    },
  );

  const CASES = WAYS.flatMap(([what, way]) => ['before', 'after'].map((when) => ({ what, way, when })));
  test.each(CASES)('the repeat of an entry that $what changes nothing newer, $when workers are done', async (row) => {
    const { way, when } = row;
    const { entries, requests } = await interrupt(way, createOldOnes, 2);
    const [changed, erased] = entries as [Entry, Entry];
    const newer = await post({ customerId: changed.customerId, customerPhone: '+2' });
    expect(newer).toEqual(UPDATED);
    const erasure = await ask(one, { method: 'DELETE', path: `/entry/${erased.customerId}` });
    expect(erasure.status).toBe(202);
    if (when === 'after') await drain();
    const repeated: Answer[] = [];
    for (const sent of requests) repeated.push(await ask(other, sent));
    expect(repeated).toEqual([UPDATED, UPDATED]);
    await expectVerdictsStored(backend);
    const receipt = repeated[0]?.receipt;
    const { version } = toReceiptOf(changed.customerId, receipt);
    // A version of the last two seconds counts as queued, whatever the queue holds.
    await waitFor(() => Date.now() * 1_000 > version + 2_100_000, { description: 'two seconds to pass' });
    const path = `/entry/${changed.customerId}/receipts/${receipt}`;
    const state = way === queueWithoutAnswer && when === 'after' ? 'stored' : 'pending';
    expect(JSON.parse((await ask(one, { method: 'GET', path })).body)).toEqual({ statusCode: 200, state });
    await drain();
    for (const [i, sent] of requests.entries()) expect(await ask(one, sent)).toEqual(replayOf(repeated[i] as Answer));
    expect(await find(changed.customerId)).toMatchObject({ phone: '+2', email: OLD });
    expect(await find(erased.customerId)).toBeUndefined();
    // The receipts have the first attempts' versions: older than what was accepted before the repeats.
    const ofCustomers = [
      { customerId: changed.customerId, receipts: [repeated[0]?.receipt, newer.receipt] },
      { customerId: erased.customerId, receipts: [repeated[1]?.receipt, erasure.receipt] },
    ];
    for (const { customerId, receipts } of ofCustomers) {
      const [first, last] = receipts.map((receipt) => toReceiptOf(customerId, receipt).version);
      expect(last).toBeGreaterThan(Number(first));
      const row = await readRowVersions(backend, { projectId: project.projectId, customerId });
      expect(row).toEqual(toRowVersions(customerId, receipts));
    }
  });
  /** Both have one shard, so that one call admits them. */
  function createOldOnes() {
    const all = [fresh()];
    const ofShard = ({ entry }: { entry: Entry }) => shardOf(project.projectId, entry.customerId, SHARDS);
    while (all.length < 2) all.push(...[fresh()].filter((next) => ofShard(next) === ofShard(all[0] as typeof next)));
    const requests = all.map((sent) => ({ ...sent, body: JSON.stringify({ ...sent.entry, customerEmail: OLD }) }));
    return { entries: all.map(({ entry }) => entry), requests };
  }

  test('the repeat of an erasure that was not answered erases nothing newer', async () => {
    const { entry, requests } = await interrupt(admitWithoutJob, async () => {
      const { entry, key } = fresh();
      await post({ ...entry, customerEmail: OLD });
      return {
        entry,
        requests: [{ key, apiKey: project.apiKey, method: 'DELETE', path: `/entry/${entry.customerId}` }],
      };
    });
    const [sent] = requests as [Sent];
    expect((await post({ ...entry, customerPhone: '+2' })).status).toBe(201);
    const repeated = await ask(one, sent);
    expect(repeated.status).toBe(202);
    await expectVerdictsStored(backend);
    await drain();
    expect(await ask(other, sent)).toEqual(replayOf(repeated));
    expect(await find(entry.customerId)).toMatchObject({ phone: '+2', email: null });
  });

  /**
   * Sends a batch of 1,000 customers, of which the first 450 are known. The ingress is killed when it has answered the
   * first 4 groups to itself, queued the fifth, and not tried the others.
   */
  async function interruptBatch() {
    const create = async () => {
      const entries = Array.from({ length: 1_000 }, () => ({ ...fresh().entry, customerEmail: OLD }));
      const known = { path: '/entries', body: JSON.stringify(entries.slice(0, 450)) };
      expect(JSON.parse((await ask(one, known)).body)).toMatchObject({ accepted: 450 });
      const batch = { ...fresh(), path: '/entries', body: JSON.stringify(entries) };
      return { requests: [batch], batch, customerIds: entries.map(({ customerId }) => customerId) };
    };
    return interrupt(queueWithoutAnswer, create, 500);
  }
  const statuses = (answer: Answer) => toResults(answer).results.map(({ statusCode }) => statusCode);

  test('a batch whose ingress was killed half way comes to its end, and changes nothing newer', async () => {
    const { batch, customerIds } = await interruptBatch();
    const newer = [0, 150, 399, 400, 449, 450, 499];
    for (const i of newer) {
      expect(await post({ customerId: customerIds[i] as string, customerPhone: '+2' })).toEqual(UPDATED);
    }
    await drain();
    const answer = await ask(other, batch);
    expect([answer.status, answer.replayed, answer.retryAfter]).toEqual([207, false, null]);
    expect(statuses(answer)).toEqual(customerIds.map((_id, i) => (i < 500 ? 202 : 201)));
    await expectVerdictsStored(backend);
    await drain();
    const load = await queue.load();
    expect(await ask(one, batch)).toEqual(replayOf(answer));
    expect(await queue.load()).toEqual(load);
    const { receipts } = toResults(answer);
    for (const i of [0, 99, 100, 250, 449, 450, 499, 500, 501, 999]) {
      const customerId = customerIds[i] as string;
      const row = await readRowVersions(backend, { projectId: project.projectId, customerId });
      expect([i, row.email]).toEqual([i, toReceiptOf(customerId, receipts[i]).version]);
    }
    const rows = await store.customers.findMany(project.projectId, customerIds);
    expect(customerIds.map((id) => rows.get(id)?.email)).toEqual(customerIds.map(() => OLD));
    expect(customerIds.map((id) => rows.get(id)?.phone)).toEqual(
      customerIds.map((_id, i) => (newer.includes(i) ? '+2' : '+1')),
    );
  });

  test('new customers of a batch that was queued and not answered are 201 in the repeat', async () => {
    const { batch, customerIds } = await interruptBatch();
    const answer = await ask(other, batch);
    expect(statuses(answer)).toEqual(customerIds.map((_id, i) => (i < 450 ? 202 : 201)));
    await expectVerdictsStored(backend);
    expect(await ask(one, batch)).toEqual(replayOf(answer));
  });

  test('a batch that was begun comes to its end even while new keys get 429', async () => {
    const { batch, customerIds } = await interruptBatch();
    await fillShare(backend, project.projectId);
    const isFull = async () => (await ask(one, fresh())).status === 429;
    for (let i = 0; !(await isFull()); i++) expect(i).toBeLessThan(MAX_TRIES);
    const answer = await ask(one, batch);
    expect(statuses(answer)).toEqual(customerIds.map((_id, i) => (i < 450 ? 202 : 201)));
    await expectVerdictsStored(backend);
    expect(await ask(one, batch)).toEqual(replayOf(answer));
    await fillShare(backend, project.projectId, { isExpired: true });
  });

  test('the same batch through two ingresses at once gets the same results from both', async () => {
    const entries = Array.from({ length: 500 }, () => fresh().entry);
    const batch = { ...fresh(), path: '/entries', body: JSON.stringify(entries) };
    const answers = await Promise.all([one, other, one, other].map((ingress) => ask(ingress, batch)));
    for (const answer of answers) expect(statuses(answer)).toEqual(entries.map(() => 201));
    await expectVerdictsStored(backend);
    expect(await ask(one, batch)).toEqual(replayOf(answers[0] as Answer));
  });

  test('repeats that one connection sends at once get the first answer, and another request under the key a 422', async () => {
    const pairs = Array.from({ length: 20 }, fresh);
    const toRequest = ({ apiKey, key, body }: ReturnType<typeof fresh>) =>
      `POST /entry HTTP/1.1\r\nhost: opm\r\nx-api-key: ${apiKey}\r\nidempotency-key: ${key}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    const socket = connect(Number(new URL(one.url).port), '127.0.0.1');
    await once(socket, 'connect');
    let text = '';
    socket.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
    const requests = pairs.flatMap((sent) =>
      [sent, sent, { ...sent, body: sent.body.replace('+1', '+2') }].map(toRequest),
    );
    socket.write(requests.join(''));
    const readStatuses = () => text.match(/(?<=HTTP\/1\.1 )\d+/g) ?? [];
    await waitFor(() => readStatuses().length === requests.length, { description: 'the answers' });
    socket.destroy();
    expect(readStatuses()).toEqual(pairs.flatMap(() => ['201', '201', '422']));
    const receipts = text.match(/(?<=\r\nreceipt: )\w+/g) ?? [];
    expect(receipts.filter((_, i) => i % 2)).toEqual(receipts.filter((_, i) => i % 2 === 0));
    expect(new Set(receipts).size).toBe(pairs.length);
    await expectVerdictsStored(backend);
    for (const { entry: _, ...sent } of pairs) expect(await ask(other, sent)).toEqual(replayOf(CREATED));
  });

  test('however repeats spread over two ingresses, all get one answer; of two requests under a key, one is accepted', async () => {
    const attempt = fc.record({ key: fc.nat(2), isOther: fc.nat(4).map((n) => n === 0), isOne: fc.boolean() });
    const property = fc.asyncProperty(fc.array(attempt, { minLength: 2, maxLength: 30 }), async (drawn) => {
      await expectVerdictsStored(backend);
      const keys = [fresh(), fresh(), fresh()].map((sent) => [sent, { ...sent, body: fresh().body }] as const);
      const before = (await queue.load()).entries;
      let undecided = 0;
      const run = async ({ key, isOther, isOne }: (typeof drawn)[number]) => {
        const sent = keys[key]?.[isOther ? 1 : 0] as Sent;
        const answer = await sendUntilAnswered(isOne ? one : other, sent, () => undecided++);
        return { key, isOther, answer };
      };
      const done = await Promise.all(drawn.map(run));
      await expectVerdictsStored(backend);
      const accepted = done.filter(({ answer }) => answer.status < 300);
      const effects = (await queue.load()).entries - before;
      const unrepeated = accepted.filter(({ answer }) => !answer.replayed).length;
      expect(effects).toBeGreaterThanOrEqual(undecided > 0 ? 0 : unrepeated);
      expect(effects).toBeLessThanOrEqual(unrepeated + undecided);
      for (const [key, [sent, different]] of keys.entries()) {
        const own = done.filter((it) => it.key === key);
        const [first, ...others] = accepted.filter((it) => it.key === key);
        if (own.length === 0) continue;
        const { isOther, answer } = first as NonNullable<typeof first>; // one is accepted
        if (undecided === 0) expect(answer.status).toBe(201);
        for (const it of others) expect([it.isOther, it.answer.body]).toEqual([isOther, answer.body]);
        for (const it of own) if (it.isOther !== isOther) expect(it.answer).toEqual(REUSED);
        const [winner, loser] = isOther ? [different, sent] : [sent, different];
        expect(await ask(one, winner)).toEqual({ ...answer, replayed: true });
        expect(await ask(other, loser)).toEqual(REUSED);
      }
    });
    await fc.assert(property, { numRuns: 30 });
  });

  test('of many requests under one key at once, one is accepted, and all others are a 422', async () => {
    const sent = freshOfOneKey(MANY);
    const first = await Promise.all(sent.map((request) => ask(one, request)));
    expect(first.filter(({ status }) => status !== 422)).toEqual([CREATED]);
    const again = await Promise.all(freshOfOneKey(MANY, sent[0]?.key).map((request) => ask(one, request)));
    expect(again).toEqual(again.map(() => REUSED));
  });

  test('of many keys for one new customer, through two ingresses at once, one gets 201', async () => {
    for (let run = 0; run < 10; run++) {
      const { body, apiKey } = fresh();
      const keys = Array.from({ length: 4 }, () => fresh().key);
      let undecided = 0;
      const ofKey = async (key: string) => {
        const answers = await Promise.all(
          [one, other].map((ingress) => sendUntilAnswered(ingress, { apiKey, key, body }, () => undecided++)),
        );
        return answers.some(({ status }) => status === 201);
      };
      const created = (await Promise.all(keys.map(ofKey))).filter((isCreated) => isCreated).length;
      expect(created).toBeLessThanOrEqual(1);
      if (undecided === 0) expect(created).toBe(1);
    }
  });

  test('while the queue is down, a request with a key is a 503; its repeat is accepted once', async () => {
    const ingress = await startApp('ingress', { ...env, ...place });
    const [before, away, batch] = [fresh(), fresh(), { ...fresh(), path: '/entries', body: `[${fresh().body}]` }];
    expect(await ask(ingress, before)).toEqual(CREATED);
    await expectVerdictsStored(backend);
    await proxy.cut();
    for (const sent of [before, away, batch]) {
      const { status, retryAfter, body } = await send(ingress, sent);
      expect([status, retryAfter, JSON.parse(body).message]).toEqual([503, '1', 'entry was not accepted, try again']);
    }
    await proxy.restore();
    const untilAccepted = (sent: Sent) =>
      waitFor(() => send(ingress, sent).then((answer) => answer.status < 300 && !answer.retryAfter && answer), {
        description: 'the entry to be accepted',
      });
    const first = [await untilAccepted(away), await untilAccepted(batch)];
    expect(first[0]).toEqual(CREATED);
    await expectVerdictsStored(backend);
    for (const [i, sent] of [away, batch].entries()) expect(await ask(one, sent)).toEqual(replayOf(first[i] as Answer));
    expect(await untilAccepted(before)).toEqual(replayOf(CREATED));
    await ingress.stop();
  });

  // It leaves an open record.
  test('while the store hangs, requests under one key do not wait for one another until each has had its turn', async () => {
    // The first request waits for three quarters of this, the others for a quarter: they may come 4 s after the first.
    const held = await startApp('ingress', { ...env, ...place, ANSWER_TIMEOUT_MS: '8000' });
    await ask(held, fresh()); // now it knows the API key
    proxy.hold();
    const requests = freshOfOneKey(MANY).map((request) => ({ ...request, apiKey: project.apiKey }));
    const answers = await Promise.all(requests.map((request) => send(held, request)));
    proxy.release();
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 503));
    expect(await held.readMetric('opm_shed_total{reason="waited"}')).toBe(MANY - 1);
    await held.stop();
  });
});
