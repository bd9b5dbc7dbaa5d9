import { once } from 'node:events';
import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, type EntryQueue, shardOf } from '@opm/queue';
import { createStore } from '@opm/store';
import { BACKENDS, type Backend, query, startApp, type TestApp } from '@opm/testkit';
import { fillShare } from '../../../packages/queue/test/idempotency-share.js';
import {
  type Answer,
  ageRecords,
  CREATED,
  expectVerdictsStored,
  REUSED,
  readRecords,
  readVersions,
  replayOf,
  type Sent,
  sendUntilAnswered,
  UPDATED,
} from './keyed-requests.js';

const MINUTE_MS = 60 * 1_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const LINES = { 'content-type': 'application/x-ndjson' };
const TOO_MANY_KEYS = {
  ...{ status: 429, replayed: false, retryAfter: '60', receipt: null },
  body: '{"statusCode":429,"error":"Too Many Requests","message":"request was not accepted, too many idempotency keys are remembered, send it without one"}',
};
/** One record in 16 shows how many a project has. */
const MAX_TRIES = 1_000;

/** Receipts come from the versions of the records, which `ageRecords` changes. */
const withoutReceipts = (answer: Answer): Answer => ({
  ...{ ...answer, receipt: null },
  body: answer.body.replace(/"receipts":\[.*\]/, ''),
});

const SIDES = BACKENDS.flatMap(([name, createPlace]) => [1, 6].map((shards) => ({ name, shards, createPlace })));

describe.each(SIDES)('idempotency keys, with the queue on $name, shards: $shards:', ({ shards, createPlace }) => {
  let backend: Backend;
  let queue: EntryQueue;
  let one: TestApp;
  let other: TestApp;
  const projects: Record<'acme' | 'limited' | 'full', { projectId: number; apiKey: string }> = {} as never;

  beforeAll(async () => {
    backend = await createPlace();
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    for (const name of ['acme', 'limited', 'full'] as const) projects[name] = await store.projects.create(name);
    await store.projects.setLimit(projects.limited.projectId, { rate: 1_000_000, burst: 1_000_000 });
    await store.close();
    const env = { ...backend.env, QUEUE_SHARDS: String(shards) };
    [one, other] = await Promise.all([startApp('ingress', env), startApp('ingress', env)]);
    queue = await createEntryQueue({ ...backend, shards, signal: new AbortController().signal, onError: () => {} });
  });
  afterAll(async () => {
    await Promise.all([one?.stop(), other?.stop()]);
    await queue?.close();
    await backend?.drop();
  });

  const send = (ingress: TestApp, sent: Sent): Promise<Answer> =>
    sendUntilAnswered(ingress, { apiKey: projects.acme.apiKey, ...sent });
  const sendFirst = async (ingress: TestApp, sent: Sent): Promise<Answer> => {
    const answer = await send(ingress, sent);
    expect(answer.replayed).toBe(false);
    await expectVerdictsStored(backend);
    return answer;
  };

  let nextId = 1;
  const freshId = (): number => nextId++;
  const toBody = (id: unknown, phone = '+1') => JSON.stringify({ customerId: `c${id}`, customerPhone: phone });
  const fresh = (id = freshId()) => ({ key: `key-${id}`, body: toBody(id) });
  const freshBatch = (): Sent => ({ ...fresh(), path: '/entries', body: `[${fresh().body},${fresh().body}]` });
  /** All that a request changes: versions, claims (each has a version), waiting entries and jobs. */
  const readEffects = async () => {
    const jobs = [one, other].map((ingress) => ingress.readMetric('opm_chunk_entries_count'));
    const records = (await readRecords(backend)).map(({ text }) => text).sort();
    const { entries } = await queue.load();
    return { entries, records, versions: await readVersions(backend), jobs: await Promise.all(jobs) };
  };
  const expectNoEffect = async (act: () => Promise<void>): Promise<void> => {
    const before = await readEffects();
    await act();
    expect(await readEffects()).toEqual(before);
  };

  test.each(['acme', 'limited'] as const)(
    'a repeat gets the first answer through any ingress, even after newer entries, and has no effect: %s',
    async (name) => {
      const { apiKey } = projects[name];
      const sent = { ...fresh(), apiKey };
      const { body } = sent;
      const first = await sendFirst(one, sent);
      expect(first).toEqual(CREATED);
      await expectNoEffect(async () => {
        for (const ingress of [one, other]) expect(await send(ingress, sent)).toEqual(replayOf(first));
      });
      expect(await send(other, { apiKey, body })).toEqual(UPDATED);
      const again = { apiKey, body, key: `${sent.key}-again` };
      const second = await sendFirst(other, again);
      expect(second).toEqual(UPDATED);
      await expectNoEffect(async () => {
        expect(await send(one, sent)).toEqual(replayOf(first));
        expect(await send(one, again)).toEqual(replayOf(second));
      });
    },
  );

  test('spelling does not count: the same entry is a repeat, however it is written', async () => {
    const id = freshId();
    const sent = { key: `key-${id}"\\`, body: `{"customerId":${id},"customerPhone":"+1","customerEmail":"a/b"}` };
    expect(await sendFirst(one, sent)).toEqual(CREATED);
    const bodies = [
      ` {\r\n"customerId"\t: ${id},  "customerPhone":"+1","customerEmail":"a/b"} `,
      `{"customerEmail":"a/b","customerPhone":"+1","customerId":"${id}"}`,
      `{"customerId":"\\u003${String(id)[0]}${String(id).slice(1)}","customerPhone":"\\u002b1","customerEmail":"a\\/b"}`,
      `{"customerId":0,"customerPhone":"+1","customerEmail":"a/b","customerId":${id}}`,
      `{"customerId":${id},"customerPhone":"+1","customerEmail":"a/b","customerIP":null,"customerFirstName":""}`,
      `{"customerId":${id},"customerPhone":"+1","customerEmail":"a/b","note":{"x":[1]}}`,
    ];
    const others: Sent[] = [
      ...bodies.map((body) => ({ ...sent, body })),
      { ...sent, key: `"key-${id}\\"\\\\"` },
      { ...sent, path: '/entry?source=crm' },
      { ...sent, headers: { 'content-type': 'text/plain' } },
    ];
    await expectNoEffect(async () => {
      for (const spelling of others) expect(await send(other, spelling)).toEqual(replayOf(CREATED));
    });
  });

  test('spelling does not count: the same batch is a repeat as an array, as lines, or with longer escapes', async () => {
    const text = 'x'.repeat(255);
    const entries = Array.from({ length: 450 }, () => ({ ...JSON.parse(fresh().body), customerFirstName: text }));
    const batch = { key: fresh().key, path: '/entries', body: JSON.stringify(entries) };
    const first = await sendFirst(one, batch);
    expect(JSON.parse(first.body)).toMatchObject({ statusCode: 207, accepted: 450, rejected: 0 });
    const lines = entries.map((entry) => JSON.stringify(entry));
    const escaped = lines.map((line) => line.replaceAll('x', '\\u0078'));
    const spellings: Sent[] = [
      { body: JSON.stringify(entries, null, 2) },
      { body: `[${escaped}]` },
      { body: lines.join('\n'), headers: LINES },
      {
        body: `\r\n \n${escaped.join('\r\n\r\n')}\n`,
        headers: { 'content-type': 'Application/NDJSON; charset=utf-8' },
      },
    ];
    await expectNoEffect(async () => {
      for (const spelling of spellings) expect(await send(other, { ...batch, ...spelling })).toEqual(replayOf(first));
    });
  });

  test.each(['acme', 'limited'] as const)(
    'another entry, method or path under the key is a 422 without an effect, whatever its shard: %s',
    async (name) => {
      const { apiKey, projectId } = projects[name];
      const ofShards = Array.from({ length: shards }, (_, shard) => {
        for (let id = freshId(); ; id = freshId()) if (shardOf(projectId, `c${id}`, shards) === shard) return id;
      });
      for (const id of ofShards) {
        const sent = { ...fresh(id), apiKey };
        expect(await sendFirst(one, sent)).toEqual(CREATED);
        const others: Sent[] = [
          ...ofShards.map((another) => ({ ...sent, body: toBody(another, another === id ? '+2' : '+1') })),
          { ...sent, path: '/entries', body: `[${sent.body}]` },
          { key: sent.key, apiKey, method: 'DELETE', path: `/entry/c${id}` },
        ];
        await expectNoEffect(async () => {
          for (const another of others) expect(await send(other, another)).toEqual(REUSED);
          expect(await send(other, sent)).toEqual(replayOf(CREATED));
        });
      }
      const [a, b] = ofShards.length > 1 ? ofShards.map((id) => toBody(id)) : [toBody(ofShards[0]), fresh().body];
      const batch = { ...fresh(), apiKey, path: '/entries', body: `[${a},${b}]` };
      const first = await sendFirst(one, batch);
      await expectNoEffect(async () => {
        for (const entries of [`${a}`, `${b},${a}`, `${a},${b},${b}`, `${a},${fresh().body}`, `${a},${b},1`]) {
          expect(await send(other, { ...batch, body: `[${entries}]` })).toEqual(REUSED);
        }
        expect(await send(other, { ...batch, path: '/entry', body: a as string })).toEqual(REUSED);
        expect(await send(other, batch)).toEqual(replayOf(first));
      });
    },
  );

  test.each<[string, string, string, number]>([
    ['an invalid entry', '/entry', '{"customerId":true,"customerEmail":"jane@example.com"}', 400],
    ['broken JSON', '/entry', '{', 400],
    ['a batch without a valid entry', '/entries', '[{"customerId":1},5]', 207],
    ['an empty batch', '/entries', '[]', 400],
  ])('%s is the same error each time and stores nothing, so its corrected form may use the key', async (...row) => {
    const [_what, path, wrong, status] = row;
    const { key, body } = fresh();
    let refused: Answer | undefined;
    await expectNoEffect(async () => {
      refused = await send(one, { key, path, body: wrong });
      expect([refused.status, refused.replayed]).toEqual([status, false]);
      expect(await send(other, { key, path, body: wrong })).toEqual(refused);
    });
    const corrected = { key, path, body: path === '/entries' ? `[${body}]` : body };
    const first = await sendFirst(one, corrected);
    expect(first.status).toBeLessThan(300);
    await expectNoEffect(async () => {
      expect(await send(other, corrected)).toEqual(replayOf(first));
      expect(await send(other, { key, path, body: wrong })).toEqual(refused);
    });
  });

  test('a repeated erasure gets its first answer, 202 or 404, and erases nothing newer', async () => {
    const { key, body } = fresh();
    const path = `/entry/${JSON.parse(body).customerId}`;
    const unknown = { key: 'unknown', path, method: 'DELETE' };
    const known = { key, path, method: 'DELETE' };
    const notThere = await sendFirst(one, unknown);
    expect(notThere.status).toBe(404);
    expect((await send(one, { body })).status).toBeLessThan(300);
    const erased = await sendFirst(other, known);
    expect(erased.status).toBe(202);
    expect((await send(one, { path, method: 'DELETE' })).status).toBe(404);
    expect((await send(one, { body })).status).toBeLessThan(300);
    await expectNoEffect(async () => {
      expect(await send(other, unknown)).toEqual(replayOf(notThere));
      expect(await send(one, known)).toEqual(replayOf(erased));
      expect(await send(one, { ...known, path: path.replace('c', '%63') })).toEqual(replayOf(erased));
      expect(await send(one, { ...known, path: `/entry/c${freshId()}` })).toEqual(REUSED);
    });
  });

  test.each(['acme', 'limited'] as const)(
    'a repeated batch of 500 entries, some invalid, is answered byte for byte as the first time: %s',
    async (name) => {
      const { apiKey } = projects[name];
      const known = fresh().body;
      const entries = Array.from({ length: 500 }, (_, i) => (i % 5 ? fresh().body : i % 2 ? `{"x":${i}}` : known));
      const batch = { ...{ key: fresh().key, apiKey, path: '/entries' }, body: entries.join('\n'), headers: LINES };
      const first = await sendFirst(one, batch);
      expect(JSON.parse(first.body)).toMatchObject({ statusCode: 207, accepted: 450, rejected: 50 });
      for (const status of [201, 202, 400]) expect(first.body).toContain(`{"statusCode":${status}`);
      await expectNoEffect(async () => {
        expect(await send(other, batch)).toEqual(replayOf(first));
        expect(await send(one, { ...batch, body: entries.with(0, '{"y":0}').join('\n') })).toEqual(REUSED);
      });
    },
  );

  test('projects do not share keys', async () => {
    const sent = fresh();
    expect(await sendFirst(one, sent)).toEqual(CREATED);
    const foreign = { ...sent, apiKey: projects.limited.apiKey };
    expect(await sendFirst(one, foreign)).toEqual(CREATED);
    expect(await send(other, foreign)).toEqual(replayOf(CREATED));
    expect(await send(other, { ...foreign, body: fresh().body })).toEqual(REUSED);
  });

  test.each([
    ['an empty key', ''],
    ['one of 256 characters', 'k'.repeat(256)],
    ['one with a space', 'a b'],
    ['one in an unclosed quote', '"a'],
  ])('%s is a 400 on each route without an effect', async (_what, key) => {
    const { body } = fresh();
    await expectNoEffect(async () => {
      for (const sent of [{ body }, { path: '/entries', body: `[${body}]` }, { path: '/entry/1', method: 'DELETE' }]) {
        const answer = await send(one, { key, ...sent });
        const message = 'idempotency key must have 1 to 255 visible ASCII characters';
        expect([answer.status, JSON.parse(answer.body).message]).toEqual([400, message]);
      }
    });
    expect((await send(one, { key: 'k'.repeat(255), body: toBody('longest key') })).status).toBeLessThan(300);
  });

  test('two keys are a 400, even if they are equal', async () => {
    const keys = ['x-api-key', projects.acme.apiKey, 'idempotency-key', 'a', 'idempotency-key', 'a'];
    const outgoing = request(`${one.url}/entry`, { method: 'POST', headers: ['host', 'test', ...keys] as never });
    outgoing.end(fresh().body);
    const [response] = await once(outgoing, 'response');
    const { message } = JSON.parse((await response.toArray()).join(''));
    expect([response.statusCode, message]).toEqual([400, 'idempotency key must be given once']);
  });

  test('the verdicts are stored before the answer, however long that takes', async () => {
    const isSlow = backend.redisUrl === undefined;
    if (isSlow) {
      await query(
        backend.databaseUrl,
        `CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN new; END';
         CREATE TRIGGER slow BEFORE UPDATE ON admission.idempotency_records FOR EACH ROW EXECUTE FUNCTION wait()`,
      );
    }
    for (const sent of [fresh(), freshBatch()]) {
      const first = await sendFirst(one, sent);
      expect(await send(other, sent)).toEqual(replayOf(first));
    }
    if (isSlow) await query(backend.databaseUrl, 'DROP FUNCTION wait CASCADE');
  });

  test('a request that is refused as a whole stores nothing', async () => {
    const sent = fresh();
    const form = { 'content-type': 'application/x-www-form-urlencoded' };
    const tooMany = Array.from({ length: 1_001 }, () => sent.body).join('\n');
    await expectNoEffect(async () => {
      expect((await send(one, { ...sent, apiKey: 'opm_wrong' })).status).toBe(401);
      expect((await send(one, { ...sent, headers: form })).status).toBe(415);
      expect((await send(one, { ...sent, body: 'x'.repeat(17_000) })).status).toBe(413);
      expect((await send(one, { ...sent, path: '/entries', body: ' '.repeat(2 ** 20 + 1) })).status).toBe(413);
      expect((await send(one, { ...sent, path: '/entries', body: tooMany, headers: LINES })).status).toBe(413);
    });
    expect(await sendFirst(one, sent)).toEqual(CREATED);
  });

  test('the store gets neither the key nor any partner data', async () => {
    await ageRecords(backend, DAY_MS);
    const before = new Set((await readRecords(backend)).map(({ id }) => id));
    const entry = '{"customerId":"secret-id","customerEmail":"secret@example.com","secret-name":"secret"}';
    for (const sent of [
      { key: 'secret-key', body: entry },
      { key: 'secret-2', body: `${entry}\n{"secret":}\n"secret"`, path: '/entries', headers: LINES },
      { key: 'secret-3', path: '/entry/secret-unknown', method: 'DELETE' },
    ]) {
      await sendFirst(one, sent);
      expect((await send(one, sent)).replayed).toBe(true);
    }
    const records = (await readRecords(backend)).filter(({ id }) => !before.has(id));
    expect(records.length).toBeGreaterThanOrEqual(3);
    for (const { text } of records) expect(text).not.toMatch(/secret/);
  });

  test('a key counts for 24 hours; then another request may use it', async () => {
    const requests = [fresh(), freshBatch(), { ...fresh(), body: toBody(freshId()) }, freshBatch()];
    const first: Answer[] = [];
    for (const sent of requests) first.push(await sendFirst(one, sent));
    await ageRecords(backend, DAY_MS - 30 * MINUTE_MS);
    await expectNoEffect(async () => {
      for (const [i, sent] of requests.entries()) {
        expect(withoutReceipts(await send(other, sent))).toEqual(replayOf(withoutReceipts(first[i] as Answer)));
      }
      expect(await send(other, { ...(requests[0] as Sent), body: fresh().body })).toEqual(REUSED);
    });
    await ageRecords(backend, 31 * MINUTE_MS);
    const [single, batch, ...others] = requests as [Sent, Sent, Sent, Sent];
    for (const sent of others) expect((await sendFirst(other, sent)).body).toContain(UPDATED.body);
    for (const sent of [
      { ...single, body: fresh().body },
      { ...batch, body: freshBatch().body as string },
    ]) {
      const answer = await sendFirst(other, sent);
      expect(answer.body).toContain(CREATED.body);
      expect(await send(one, sent)).toEqual(replayOf(answer));
    }
    expect(await send(one, single)).toEqual(REUSED);
    expect(await send(one, batch)).toEqual(REUSED);
  });

  test('a project with too many keys gets 429 for new ones, on each route; all else goes on', async () => {
    const { apiKey, projectId } = projects.full;
    const toRequests = (): Sent[] => [
      { apiKey, ...fresh() },
      { apiKey, ...freshBatch() },
      { apiKey, key: fresh().key, path: `/entry/c${freshId()}`, method: 'DELETE' },
    ];
    const known = toRequests();
    const first: Answer[] = [];
    for (const sent of known) first.push(await sendFirst(one, sent));
    /** Each shard counts what it has. */
    const inShards = new Set<number>();
    const fillShards = async () => {
      for (let i = 0; inShards.size < shards && i < MAX_TRIES; i++) {
        const id = freshId();
        await send(one, { apiKey, ...fresh(id) });
        inShards.add(shardOf(projectId, `c${id}`, shards));
      }
      await expectVerdictsStored(backend);
      await fillShare(backend, projectId);
    };
    await fillShards();
    let last = await send(other, { apiKey, ...fresh() });
    for (let i = 0; last.status !== 429 && i < MAX_TRIES; i++) last = await send(other, { apiKey, ...fresh() });
    expect(last).toEqual(TOO_MANY_KEYS);
    await expectVerdictsStored(backend);
    const shed = await other.readMetric('opm_shed_total{reason="idempotency-keys"}');
    await expectNoEffect(async () => {
      for (const sent of toRequests()) expect(await send(other, sent)).toEqual(TOO_MANY_KEYS);
      for (const [i, sent] of known.entries()) expect(await send(other, sent)).toEqual(replayOf(first[i] as Answer));
      for (const { apiKey, key } of known) expect(await send(other, { apiKey, ...fresh(), key })).toEqual(REUSED);
    });
    expect(await other.readMetric('opm_shed_total{reason="idempotency-keys"}')).toBe(shed + 3);
    for (const { key: _, ...unkeyed } of toRequests()) {
      expect([201, 207, 404]).toContain((await send(other, unkeyed)).status);
    }
    for (const { apiKey: _, ...sent } of toRequests())
      expect([201, 207, 404]).toContain((await send(other, sent)).status);

    await fillShare(backend, projectId, { isExpired: true });
    for (const sent of toRequests()) expect([201, 207, 404]).toContain((await send(other, sent)).status);
  });
});
