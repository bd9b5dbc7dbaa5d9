import { once } from 'node:events';
import { type ClientRequest, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import {
  BACKENDS,
  type Backend,
  createBackend,
  isAwaited,
  startApp,
  startProxy,
  type TestApp,
  waitFor,
} from '@opm/testkit';
import fc from 'fast-check';
import pg from 'pg';

import { readRowVersions, toReceiptOf, toRowVersions } from './receipts.js';

type Result = { statusCode: number; error?: string; message: string };
type Batch = {
  statusCode: number;
  message: string;
  accepted: number;
  rejected: number;
  results: Result[];
  receipts: (string | null)[];
};

const CREATED = { statusCode: 201, message: 'OK - Created' };
const UPDATED = { statusCode: 202, message: 'OK - Update accepted' };
const UNAVAILABLE = { statusCode: 503, error: 'Service Unavailable', message: 'entry was not accepted, try again' };
const badRequest = (message: string): Result => ({ statusCode: 400, error: 'Bad Request', message });
const tooLarge = (message: string): Result => ({ statusCode: 413, error: 'Payload Too Large', message });
const EITHER = badRequest("body must have either required property 'customerEmail' or 'customerPhone'");
const NOT_JSON = badRequest('body must be valid JSON');
const NOT_OBJECT = badRequest('body must be object');

const NDJSON = { 'content-type': 'application/x-ndjson' };
const JSON_TYPE = { 'content-type': 'application/json' };

const createClient = (ingress: TestApp, apiKey: string) => {
  async function send(
    body: string | Buffer<ArrayBuffer>,
    headers: Record<string, string> = JSON_TYPE,
  ): Promise<[number, Batch]> {
    const response = await fetch(`${ingress.url}/entries`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey, ...headers },
      body,
    });
    return [response.status, (await response.json()) as Batch];
  }
  return {
    send,
    sendArray: (values: unknown[]) => send(JSON.stringify(values)),
    sendLines: (values: unknown[]) => send(values.map((value) => JSON.stringify(value)).join('\n'), NDJSON),
  };
};

describe.each(BACKENDS)('batches, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let worker: TestApp;
  let apiKey: string;
  let projectId: number;
  let client: ReturnType<typeof createClient>;

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
    client = createClient(ingress, apiKey);
  });
  afterAll(async () => {
    expect(await ingress.stop()).toEqual({ code: 0, signal: null });
    await worker.stop();
    await store.close();
    await backend.drop();
  });

  let nextId = 1;
  const fresh = () => ({ customerId: `batch ${nextId++}`, customerEmail: 'jane@example.com' });
  const line = () => JSON.stringify(fresh());
  /** Retries entries with 503 in order, as a partner does; a busy machine may refuse some. */
  async function sendAll(send: (entries: object[]) => Promise<[number, Batch]>, entries: object[]): Promise<void> {
    const [status, { results }] = await send(entries);
    if (status === 503) return sendAll(send, entries);
    expect([status, results.length]).toEqual([207, entries.length]);
    for (const { statusCode } of results) expect([201, 202, 503]).toContain(statusCode);
    const left = entries.filter((_, i) => results[i]?.statusCode === 503);
    if (left.length > 0) await sendAll(send, left);
  }
  const countRefused = () => ingress.readMetric('opm_shed_total{reason="in-flight"}');
  const find = (customerId: string) => store.customers.find(projectId, customerId);

  test('each entry gets the result of the single call, in order; an invalid one affects no other', async () => {
    const entry = fresh();
    const bodies: unknown[] = [
      entry,
      { customerId: 1 },
      { ...fresh(), customerEmail: 5 },
      [fresh()],
      [[[]]],
      null,
      'x',
      { ...entry, customerPhone: '+1' },
      { ...fresh(), customerIP: '\0' },
      fresh(),
      {},
    ];
    const results = [
      CREATED,
      EITHER,
      badRequest('body/customerEmail must be string'),
      NOT_OBJECT,
      NOT_OBJECT,
      NOT_OBJECT,
      NOT_OBJECT,
      UPDATED,
      badRequest('body/customerIP must not contain U+0000 or unpaired surrogates'),
      CREATED,
      badRequest("body must have required property 'customerId'"),
    ];
    const answer = { statusCode: 207, message: 'OK - Multi-Status', accepted: 3, rejected: 8 };
    const receipts = results.map(({ statusCode }) => (statusCode < 300 ? expect.any(String) : null));
    expect(await client.sendArray(bodies)).toEqual([207, { ...answer, results, receipts }]);
    expect(await client.sendLines(bodies)).toEqual([
      207,
      { ...answer, results: results.map((result) => (result === CREATED ? expect.anything() : result)), receipts },
    ]);
    await waitFor(async () => (await find(entry.customerId))?.phone, { description: 'the row' });
  });

  test('each accepted entry has a receipt at its place, with its version and fields, and a refused one null', async () => {
    const [a, b] = [fresh(), fresh()];
    const entries = [
      a,
      { customerId: a.customerId },
      { customerId: b.customerId, customerPhone: '+1', customerFirstName: 'Jane' },
      5,
      { customerId: a.customerId, customerPhone: '+1', customerEmail: '', customerIP: '::1' },
      b,
    ];
    const [, { receipts }] = await client.sendArray(entries);
    expect(receipts.map((receipt) => receipt !== null)).toEqual([true, false, true, false, true, true]);
    const ofCustomers = [
      { customerId: a.customerId, own: [receipts[0], receipts[4]], fields: [['email'], ['phone', 'ip']] },
      { customerId: b.customerId, own: [receipts[2], receipts[5]], fields: [['phone', 'firstName'], ['email']] },
    ];
    for (const { customerId, own, fields } of ofCustomers) {
      const parsed = own.map((receipt) => toReceiptOf(customerId, receipt));
      expect(parsed.map((receipt) => receipt.fields)).toEqual(fields);
      expect(parsed[1]?.version).toBeGreaterThan(Number(parsed[0]?.version));
      const isStored = async () => {
        const row = await find(customerId);
        return row?.email && row.phone;
      };
      await waitFor(isStored, { description: 'both entries to be stored' });
      const row = await readRowVersions(backend, { projectId, customerId });
      expect(row).toEqual(toRowVersions(customerId, own));
    }
  });

  test('the answer matches the contract byte for byte', async () => {
    const response = await fetch(`${ingress.url}/entries`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body: `[${line()},1]`,
    });
    expect(response.headers.get('retry-after')).toBeNull();
    expect((await response.text()).replace(/(?<="receipts":\[")[0-9a-z]{13}/, '…')).toBe(
      '{"statusCode":207,"message":"OK - Multi-Status","accepted":1,"rejected":1,"results":[{"statusCode":201,"message":"OK - Created"},{"statusCode":400,"error":"Bad Request","message":"body must be object"}],"receipts":["…",null]}',
    );
  });

  test.each([
    ['an empty array', '[]', JSON_TYPE, badRequest('body must have at least one entry')],
    ['no body', '', JSON_TYPE, badRequest('body must be array')],
    ['an object', '{"customerId":1,"customerEmail":"a"}', JSON_TYPE, badRequest('body must be array')],
    ['an array that is cut off', '[{"customerId":1,', JSON_TYPE, NOT_JSON],
    ['an array after a byte order mark', '\ufeff[]', JSON_TYPE, NOT_JSON],
    ['lines as an array', '{"customerId":1}\n{"customerId":2}', JSON_TYPE, NOT_JSON],
    ['lines in an unknown coding', '', { ...NDJSON, 'content-encoding': 'br' }, { statusCode: 415 }],
    ['a form', 'a=b', { 'content-type': 'application/x-www-form-urlencoded' }, { statusCode: 415 }],
    ['no lines', '', NDJSON, badRequest('body must have at least one entry')],
    ['empty lines', '\n \r\n\t\n', NDJSON, badRequest('body must have at least one entry')],
    ['1 MiB and a byte', ' '.repeat(2 ** 20 + 1), JSON_TYPE, tooLarge('body must not be larger than 1 MiB')],
    ['3 MiB', ' '.repeat(3 * 2 ** 20), JSON_TYPE, tooLarge('body must not be larger than 1 MiB')],
    ['lines of 1 MiB and a byte', '\n'.repeat(2 ** 20 + 1), NDJSON, tooLarge('body must not be larger than 1 MiB')],
    ['lines of 3 MiB', '\n'.repeat(3 * 2 ** 20), NDJSON, tooLarge('body must not be larger than 1 MiB')],
    ['1,001 entries', `[${'1,'.repeat(1_000)}1]`, JSON_TYPE, tooLarge('body must not have more than 1000 entries')],
    ['1,001 lines', '1\n'.repeat(1_001), NDJSON, tooLarge('body must not have more than 1000 entries')],
  ] as [string, string, Record<string, string>, Partial<Result>][])(
    'an invalid batch is refused as a whole: %s',
    async (_, body, headers, refusal) => {
      const [status, answer] = await client.send(body, headers);
      expect([status, answer]).toEqual([refusal.statusCode, expect.objectContaining(refusal)]);
      expect((await client.sendArray([fresh()]))[0]).toBe(207);
    },
  );

  test('any line ending is accepted, empty lines are skipped, and broken or long lines get their own error', async () => {
    const long = (bytes: number) => {
      const entry = { ...fresh(), other: '' };
      return JSON.stringify({ ...entry, other: 'x'.repeat(bytes - JSON.stringify(entry).length) });
    };
    const lines = [
      [`${line()}\r\n`, CREATED],
      [`\n\r\n  ${line()}\t\n`, CREATED],
      ['{"customerId":1,\n', NOT_JSON],
      ['"customerEmail":"a"}\n', NOT_JSON],
      [
        Buffer.concat([Buffer.from('{"customerId":1,"customerEmail":"'), Buffer.from([0xff]), Buffer.from('"}\n')]),
        NOT_JSON,
      ],
      [`${long(16 * 1024)}\n`, CREATED],
      [`${long(16 * 1024 + 1)}\n`, tooLarge('body must not be larger than 16 KiB')],
      [`${'x'.repeat(200_000)}\n`, tooLarge('body must not be larger than 16 KiB')],
      [`${JSON.stringify({ ...fresh(), customerFirstName: 'Jäne 😀\u2028' })}\n`, CREATED],
      ['[]\n', NOT_OBJECT],
      [`\ufeff${line()}\n`, NOT_JSON],
      [line(), CREATED],
    ] as const;
    const body = Buffer.concat(lines.map(([text]) => Buffer.from(text)));
    const [status, { results }] = await client.send(body, NDJSON);
    expect([status, results]).toEqual([207, lines.map(([, result]) => result)]);
  });

  test('an entry of more than 16 KiB in an array is refused, and the others are accepted', async () => {
    const ofSize = (bytes: number) => {
      const entry = { ...fresh(), other: '' };
      return { ...entry, other: 'x'.repeat(bytes - JSON.stringify(entry).length) };
    };
    const [status, { results }] = await client.sendArray([fresh(), ofSize(16 * 1024), ofSize(16 * 1024 + 1), fresh()]);
    const refused = tooLarge('body must not be larger than 16 KiB');
    expect([status, results]).toEqual([207, [CREATED, CREATED, refused, CREATED]]);
  });

  test('lines give the same results however the network splits them', async () => {
    const bodies = Array.from({ length: 12 }, (_, i) => (i % 3 ? { ...fresh(), customerFirstName: '😀é' } : { i }));
    const whole = Buffer.from(bodies.map((body) => JSON.stringify(body)).join('\r\n'));
    const [, expected] = await client.send(whole, NDJSON);
    const cuts = fc.uniqueArray(fc.integer({ min: 1, max: whole.length - 1 }), { maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(cuts, async (places) => {
        const outgoing = request(`${ingress.url}/entries`, {
          method: 'POST',
          headers: { 'x-api-key': apiKey, ...NDJSON },
        });
        const answered = once(outgoing, 'response');
        const ends = [...places.toSorted((a, b) => a - b), whole.length];
        for (const [i, end] of ends.entries()) {
          outgoing.write(whole.subarray(i === 0 ? 0 : ends[i - 1], end));
          await turn();
        }
        outgoing.end();
        const [response] = await answered;
        const { accepted, rejected, results } = JSON.parse((await response.toArray()).join('')) as Batch;
        expect([accepted, rejected]).toEqual([expected.accepted, expected.rejected]);
        expect(results.map(({ statusCode }) => statusCode > 299)).toEqual(bodies.map((body) => 'i' in body));
      }),
      { numRuns: 20 },
    );
  });

  test.each(['sendArray', 'sendLines'] as const)('the last of 1,000 entries of one customer wins: %s', async (send) => {
    const { customerId } = fresh();
    // Sends other entries at the same time, so that chunks begin and end anywhere in the batch.
    const others = Array.from({ length: 20 }, () => sendAll(client.sendArray, Array.from({ length: 70 }, fresh)));
    const entries = Array.from({ length: 1_000 }, (_, i) => ({
      customerId,
      customerEmail: `${i}@example.com`,
      // The last entry that sets this field is in the middle of the batch.
      ...(i < 500 && { customerPhone: `${i}` }),
    }));
    await sendAll(client[send], entries);
    await Promise.all(others);
    const stored = async () => {
      const { email, phone } = (await find(customerId)) ?? {};
      return email === '999@example.com' && phone === '499';
    };
    await waitFor(stored, { description: 'the last entries to be stored' });
  });

  test('a full batch of 1,000 entries and 1 MiB is accepted and becomes as many rows', async () => {
    const entries = Array.from({ length: 1_000 }, () => ({ ...fresh(), other: '' }));
    const spare = 2 ** 20 - JSON.stringify(entries).length;
    for (const [i, entry] of entries.entries()) entry.other = 'x'.repeat(Math.floor((spare + i) / 1_000));
    const body = JSON.stringify(entries);
    expect(Buffer.byteLength(body)).toBe(2 ** 20);
    await sendAll((left) => (left.length === 1_000 ? client.send(body) : client.sendArray(left)), entries);
    const ids = entries.map(({ customerId }) => customerId);
    await waitFor(async () => (await store.customers.findMany(projectId, ids)).size === 1_000, {
      description: 'the rows',
    });
  });

  test('of a broken-off batch, complete groups of lines are accepted and counted, nothing of an array, and no error is logged', async () => {
    const before = ingress.output().length;
    const own = await store.projects.create(`broken off ${nextId}`);
    const findOwn = (customerId = '') => store.customers.find(own.projectId, customerId);
    const open = (headers: Record<string, string>) => {
      const outgoing = request(`${ingress.url}/entries`, {
        method: 'POST',
        headers: { 'x-api-key': own.apiKey, ...headers },
      });
      return outgoing.on('error', () => {});
    };
    const group = Array.from({ length: 200 }, fresh);
    const cut = fresh();
    const lines = open(NDJSON);
    lines.write([...group, cut].map((entry) => JSON.stringify(entry)).join('\n'));
    await waitFor(() => findOwn(group[199]?.customerId), { description: 'the group' });
    lines.destroy();
    const array = open(JSON_TYPE);
    await new Promise((resolve) => array.write(`[${JSON.stringify(cut)}`, resolve));
    array.destroy();

    const last = fresh();
    await sendAll(createClient(ingress, own.apiKey).sendArray, [last]);
    await waitFor(() => findOwn(last.customerId), { description: 'the last entry' });
    expect(await findOwn(cut.customerId)).toBeUndefined();
    const countCreated = async () =>
      (await store.activity.usage(own.projectId)).reduce((sum, { created }) => sum + created, 0);
    await waitFor(async () => (await countCreated()) >= 201, { description: 'the counts' });
    expect(await countCreated()).toBe(201);
    expect(ingress.output().slice(before)).not.toMatch(/request failed/);
  });

  test('idle uploads use no memory of others: sixty of each of two projects', async () => {
    const others = await Promise.all([1, 2].map((n) => store.projects.create(`slow ${n} of ${nextId}`)));
    const uploads: ClientRequest[] = [];
    for (const key of others.map((other) => other.apiKey)) {
      await sendAll(createClient(ingress, key).sendArray, [fresh()]); // the ingress caches the key
      for (let i = 0; i < 60; i++) {
        const headers = { 'x-api-key': key, expect: '100-continue', ...(i % 2 ? NDJSON : JSON_TYPE) };
        const upload = request(`${ingress.url}/entries`, { method: 'POST', headers }).on('error', () => {});
        uploads.push(upload);
        upload.flushHeaders();
        await once(upload, 'continue'); // the ingress has begun to read the body
      }
    }
    const refused = await countRefused();
    for (const { apiKey: key } of [{ apiKey }, ...others]) {
      await sendAll(createClient(ingress, key).sendArray, [fresh()]);
      await sendAll(createClient(ingress, key).sendLines, [fresh()]);
    }
    expect(await countRefused()).toBe(refused);
    for (const upload of uploads) upload.destroy();
  });

  test('a project whose unfinished bodies use up its share of the memory is refused, and other projects are not', async () => {
    const other = await store.projects.create(`other ${nextId}`);
    const clientOfOther = createClient(ingress, other.apiKey);
    const uploads: ClientRequest[] = [];
    const pad = 'x'.repeat(1024 * 1024 - 200);
    const openSome = () => {
      for (let i = 0; i < 10; i++) {
        const headers = { 'x-api-key': apiKey, ...JSON_TYPE };
        const upload = request(`${ingress.url}/entries`, { method: 'POST', headers }).on('error', () => {});
        upload.write(`["${pad}`);
        uploads.push(upload);
      }
    };
    await waitFor(
      async () => {
        openSome();
        const [own] = await client.sendArray([{ ...fresh(), pad }]);
        return own === 503 && (await clientOfOther.sendArray([fresh()]))[0] === 207;
      },
      { description: 'the limit of one project' },
    );
    for (const upload of uploads) upload.destroy();
    await waitFor(async () => (await client.sendArray([{ ...fresh(), pad }]))[0] === 207, { description: 'room' });
  });

  test.each([
    ['arrays', JSON_TYPE, ['[', ',', ']']],
    ['lines', NDJSON, ['', '\n', '']],
  ] as const)(
    'no part of %s that arrive during the key look-up is lost, and a client that disconnects uses no memory',
    async (_what, type, [start, between, end]) => {
      const before = ingress.output().length;
      const [patient, hasty] = await Promise.all(['a', 'b'].map(() => store.projects.create(`one of ${nextId++}`)));
      if (!patient || !hasty) throw new Error('there must be two projects');
      const locker = new pg.Client({ connectionString: backend.databaseUrl });
      await locker.connect();
      await locker.query('BEGIN');
      await locker.query('LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE');
      const begin = async (key: string) => {
        const headers = { 'x-api-key': key, ...type };
        const upload = request(`${ingress.url}/entries`, { method: 'POST', headers }).on('error', () => {});
        await new Promise((resolve) => upload.write(start + line() + between, resolve));
        return upload;
      };
      const kept = await begin(patient.apiKey);
      const given = await Promise.all(Array.from({ length: 120 }, () => begin(hasty.apiKey)));
      await waitFor(() => isAwaited(locker), { description: 'the look-up' });
      // Half of these clients have sent the whole body before they disconnect.
      const ended = given
        .slice(60)
        .map((upload) => new Promise<void>((resolve) => void upload.end(line() + end, resolve)));
      await Promise.all(ended);
      const refused = await countRefused();
      for (const upload of given) upload.destroy();
      await fetch(`${ingress.url}/openapi.json`).then((response) => response.arrayBuffer()); // by then the ingress has noticed
      await locker.query('ROLLBACK');
      await locker.end();

      kept.end(line() + end);
      const [response] = await once(kept, 'response');
      expect(JSON.parse(await text(response))).toMatchObject({ accepted: 2, rejected: 0 });
      expect((await createClient(ingress, hasty.apiKey).sendArray([fresh()]))[0]).toBe(207);
      expect(ingress.output().slice(before)).not.toMatch(/request failed/);
      expect(await ingress.readMetric('opm_answers_total{route="/entries",status="500"}')).toBe(0);
      expect(await countRefused()).toBe(refused);
      // Complete arrays are accepted although no client waits for the answer.
      await waitFor(async () => (await ingress.readMetric('opm_pending_entries')) === 0, {
        description: 'the last one',
      });
    },
  );

  test('a wrong key is a 401, another method a 405, and answers are counted', async () => {
    expect((await client.send('[1]', { ...JSON_TYPE, 'x-api-key': 'wrong' }))[0]).toBe(401);
    const response = await fetch(`${ingress.url}/entries`);
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
    expect(await ingress.readMetric('opm_answers_total{route="/entries",status="207"}')).toBeGreaterThan(0);
    expect(await ingress.readMetric('opm_pending_entries')).toBe(0);
  });

  test('a batch larger than PENDING_MAX_ENTRIES is accepted with any number of shards', async () => {
    const place = await createPlace();
    const own = createStore({ databaseUrl: place.databaseUrl, applicationName: 'test' });
    const { apiKey: key } = await own.projects.create('acme').finally(own.close);
    const small = await startApp('ingress', {
      ...place.env,
      QUEUE_SHARDS: '3',
      PENDING_MAX_ENTRIES: '10',
      CHUNKS_IN_FLIGHT: '1',
      CHUNK_MAX_ENTRIES: '20',
    });
    const entries = Array.from({ length: 1_000 }, fresh);
    await sendAll(createClient(small, key).sendArray, entries);
    expect(await small.readMetric('opm_shed_total{reason="in-flight"}')).toBe(0);
    await small.stop();
    await place.drop();
  });

  test('while more than BACKLOG_MAX_ENTRIES wait, a batch gets 503 with retry-after', async () => {
    const full = await startApp('ingress', {
      ...backend.env,
      REDIS_PREFIX: `${backend.prefix}-full`,
      BACKLOG_MAX_ENTRIES: '1',
    });
    const refused = async () => (await createClient(full, apiKey).sendArray([fresh()]))[0] === 503;
    await worker.stop();
    await waitFor(refused, { description: 'the limit to take effect' });
    worker = await startApp('worker', backend.env);
    await full.stop();
  });
});

describe('when the queue fails in the middle of a batch,', () => {
  let backend: Backend;
  let redis: Awaited<ReturnType<typeof startProxy>>;
  let ingress: TestApp;
  let apiKey: string;

  beforeAll(async () => {
    redis = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
    backend = await createBackend(redis.url);
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey } = await store.projects.create('acme').finally(store.close));
    ingress = await startApp('ingress', { ...backend.env, CHUNK_MAX_ENTRIES: '2' });
  });
  afterAll(async () => {
    await ingress.stop();
    await redis.close();
    await backend.drop();
  });

  const lineOf = (customerId: number) => `{"customerId":${customerId},"customerPhone":"+1"}\n`;
  const chunks = () => ingress.readMetric('opm_chunk_entries_count');

  test('the answer says which entries were accepted, and nothing after the first refused one is', async () => {
    const outgoing = request(`${ingress.url}/entries`, { method: 'POST', headers: { 'x-api-key': apiKey, ...NDJSON } });
    const answered = once(outgoing, 'response');
    outgoing.write(lineOf(1) + lineOf(2));
    await waitFor(chunks, { description: 'the first two to be queued' });
    await redis.cut();
    outgoing.write(`${lineOf(3)}rubbish\n${lineOf(4)}`);
    await waitFor(() => /could not queue entries/.test(ingress.output()), { description: 'the third to be refused' });
    await redis.restore();
    const { sendArray } = createClient(ingress, apiKey);
    const back = async () => (await sendArray([{ customerId: 'x', customerPhone: '+1' }]))[0] === 207;
    await waitFor(back, { description: 'the queue to be back' });
    outgoing.end(lineOf(5));

    const [response] = await answered;
    const { accepted, rejected, results } = JSON.parse((await response.toArray()).join('')) as Batch;
    expect([response.statusCode, response.headers['retry-after'], accepted, rejected]).toEqual([207, '1', 2, 4]);
    expect(results).toEqual([CREATED, CREATED, UNAVAILABLE, NOT_JSON, UNAVAILABLE, UNAVAILABLE]);
    const [, again] = await sendArray([3, 4, 5].map((customerId) => ({ customerId, customerPhone: '+1' })));
    expect(again.results).toEqual([CREATED, CREATED, CREATED]);
  });

  test('a batch without any queued entry gets 503, as a single entry does', async () => {
    await redis.cut();
    const { send } = createClient(ingress, apiKey);
    expect(await send(`${lineOf(6)}{}\n${lineOf(7)}`, NDJSON)).toEqual([503, UNAVAILABLE]);
    await redis.restore();
  });
});
