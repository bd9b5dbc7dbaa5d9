import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { LIMITS } from '@opm/contract';
import { type CustomerEntry, toReceipt } from '@opm/core';
import { replay } from '@opm/operations/actions';
import { createEntryQueue, type EntryQueue, shardOf } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, createBackend, startApp, startProxy, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';

const SHARDS = 2;
const isoTime = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

/** The columns refuse some values: a phone by a constraint, an ip by its length, an email by a trigger. */
const REFUSE = `
  ALTER TABLE customers ADD CONSTRAINT customers_phone_check CHECK (phone NOT LIKE 'bad%');
  ALTER TABLE customers ALTER COLUMN ip TYPE varchar(10);
  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF NEW.email LIKE 'bad%' THEN RAISE 'no % for %', NEW.email, NEW.customer_id; END IF; RETURN NEW; END $$;
  CREATE TRIGGER refuse BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION refuse()`;
const ALLOW_PHONES = 'ALTER TABLE customers DROP CONSTRAINT customers_phone_check';

const TOO_LONG = { code: 'VALUE_TOO_LONG', message: 'a value is too long for our database, send a shorter one' };
const INVALID = { code: 'VALUE_INVALID', message: 'our database does not accept a value, send another one' };

type Fields = { customerEmail?: string; customerPhone?: string; customerIP?: string };
type Refused = { customerId: string; receipt: string; state: string; idempotencyKey?: string; requestId?: string };

describe.each(BACKENDS)('what became of an entry, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let env: NodeJS.ProcessEnv;
  let store: Store;
  let queue: EntryQueue;
  let database: pg.Client;
  let project: { projectId: number; apiKey: string };
  let ingress: TestApp;

  beforeAll(async () => {
    backend = await createPlace();
    // An error of a trigger is tried again; here, once is enough.
    env = { ...backend.env, QUEUE_SHARDS: String(SHARDS), JOB_MAX_ATTEMPTS: '1' };
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    project = await store.projects.create('acme');
    const signal = new AbortController().signal;
    queue = await createEntryQueue({ ...backend, shards: SHARDS, signal, onError: () => {} });
    database = new pg.Client({ connectionString: backend.databaseUrl });
    await database.connect();
    await database.query(REFUSE);
    ingress = await startApp('ingress', env);
  });
  afterAll(async () => {
    await ingress?.stop();
    await Promise.all([database.end(), queue.close(), store.close()]);
    await backend.drop();
  });

  const call = (path: string, init: RequestInit = {}, apiKey = project.apiKey) =>
    fetch(ingress.url + path, { ...init, headers: { 'x-api-key': apiKey } });
  const read = async (path: string, apiKey?: string): Promise<[number, unknown]> => {
    const response = await call(path, {}, apiKey);
    return [response.status, await response.json()];
  };
  const pathOf = (customerId: string) => `/entry/${encodeURIComponent(customerId)}`;
  const fateOf = async (customerId: string, receipt: string) => {
    const [status, body] = await read(`${pathOf(customerId)}/receipts/${receipt}`);
    expect(status).toBe(200);
    return body as { statusCode: 200; state: string; refused?: Refused };
  };
  const askAll = async (body: BodyInit, headers: Record<string, string> = {}, apiKey = project.apiKey) => {
    const given = { 'x-api-key': apiKey, 'content-type': 'application/json', ...headers };
    return fetch(`${ingress.url}/entries/receipts`, { method: 'POST', headers: given, body });
  };
  /** Expects a question for all receipts, many times each, to get the answers of the questions for one. */
  async function expectSameTogether(asked: [string, string][]): Promise<void> {
    const many = Array.from({ length: LIMITS.batchEntries }, (_, i) => asked[i % asked.length] as [string, string]);
    const body = JSON.stringify(many.map(([customerId, receipt]) => ({ customerId, receipt })));
    const fates = await Promise.all(asked.map(([customerId, receipt]) => fateOf(customerId, receipt)));
    const response = await askAll(new Uint8Array(gzipSync(body)), { 'content-encoding': 'gzip' });
    const results = many.map((_, i) => fates[i % asked.length]);
    expect([response.status, await response.json()]).toEqual([200, { statusCode: 200, results }]);
  }
  const stateOf = async (customerId: string, receipt: string) => (await fateOf(customerId, receipt)).state;
  const untilState = (customerId: string, receipt: string, state: string) =>
    waitFor(async () => (await stateOf(customerId, receipt)) === state, {
      description: `${customerId} to be ${state}`,
    });

  /** The receipt of the customer's newest entry, while no worker runs. */
  async function receiptOf(customerId: string, fields?: CustomerEntry['fields']): Promise<string> {
    const shard = shardOf(project.projectId, customerId, SHARDS);
    const [claim] = await queue.readClaims(shard, project.projectId, [{ customerId }]);
    return toReceipt({ customerId, version: claim?.version ?? 0, ...(fields && { fields }) });
  }

  /** Sends an entry while no worker runs. @returns its receipt */
  async function send(customerId: string, fields: Fields): Promise<string> {
    const body = JSON.stringify({ customerId, ...fields });
    expect((await call('/entry', { method: 'POST', body })).status).toBeLessThan(300);
    const { customerEmail: email, customerPhone: phone, customerIP: ip } = fields;
    return receiptOf(customerId, { ...(email && { email }), ...(phone && { phone }), ...(ip && { ip }) });
  }

  async function erase(customerId: string): Promise<string> {
    expect((await call(pathOf(customerId), { method: 'DELETE' })).status).toBe(202);
    return receiptOf(customerId);
  }

  async function whileWorking<T>(run: () => Promise<T>): Promise<T> {
    const worker = await startApp('worker', env);
    return run().finally(worker.stop);
  }

  const replayAll = (customerId: string) =>
    replay({
      ...{ deadLetters: store.deadLetters, findErased: store.customers.findErased, queue, shards: SHARDS, rate: 100 },
      ...{ filter: { customerId }, onProgress: () => {}, signal: new AbortController().signal },
    });

  test('an entry is pending until it is stored or refused; a refused one says why', async () => {
    const good = await send('good / Ü', { customerPhone: '+1', customerIP: '::1' });
    const overtaken = await send('overtaken', { customerPhone: '+1' });
    await send('overtaken', { customerPhone: '+2' });
    const phone = await send('phone', { customerPhone: 'bad 1' });
    const email = await send('email', { customerEmail: 'bad@example.com' });
    const ip = await send('ip', { customerPhone: '+1', customerIP: '203.0.113.7' });
    const erased = await send('erased', { customerPhone: '+1' });
    const erasure = await erase('erased');

    const all: [string, string][] = [
      ...([
        ['good / Ü', good],
        ['overtaken', overtaken],
        ['phone', phone],
        ['email', email],
      ] as [string, string][]),
      ...([
        ['ip', ip],
        ['erased', erased],
        ['erased', erasure],
      ] as [string, string][]),
    ];
    for (const [id, receipt] of all) {
      expect([id, await fateOf(id, receipt)]).toEqual([id, { statusCode: 200, state: 'pending' }]);
    }
    await expectSameTogether(all);
    await whileWorking(async () => {
      for (const [id, receipt] of all) {
        const isRefused = ['phone', 'email', 'ip'].includes(id);
        await untilState(id, receipt, isRefused ? 'refused' : 'stored');
      }
    });
    const refused = (customerId: string, receipt: string, reason: object) => {
      const entry = { customerId, receipt, ...reason, refusedAt: isoTime, state: 'refused' };
      return { statusCode: 200, state: 'refused', refused: entry };
    };
    expect(await fateOf('good / Ü', good)).toEqual({ statusCode: 200, state: 'stored' });
    expect(await fateOf('phone', phone)).toEqual(refused('phone', phone, { ...INVALID, field: 'customerPhone' }));
    expect(await fateOf('ip', ip)).toEqual(refused('ip', ip, { ...TOO_LONG, field: 'customerIP' }));
    expect(await fateOf('email', email)).toEqual(refused('email', email, INVALID));
    await expectSameTogether(all);
  });

  test('an entry that is replayed is pending, then stored, or refused again; a discarded one stays refused', async () => {
    const [fixed, again, dropped] = [
      await send('fixed', { customerPhone: 'bad 1' }),
      await send('again', { customerEmail: 'bad@example.com' }),
      await send('dropped', { customerEmail: 'bad@example.com' }),
    ] as const;
    await whileWorking(async () => {
      for (const [id, receipt] of [
        ['fixed', fixed],
        ['again', again],
        ['dropped', dropped],
      ] as const) {
        await untilState(id, receipt, 'refused');
      }
    });
    expect(await store.deadLetters.discard({ customerId: 'dropped' })).toBe(1);
    await database.query(ALLOW_PHONES);
    for (const id of ['fixed', 'again']) expect(await replayAll(id)).toEqual({ replayed: 1, skipped: 0, traced: 1 });
    expect(await fateOf('dropped', dropped)).toMatchObject({ state: 'refused', refused: { state: 'discarded' } });
    expect([await stateOf('fixed', fixed), await stateOf('again', again)]).toEqual(['pending', 'pending']);
    await expectSameTogether([
      ['dropped', dropped],
      ['fixed', fixed],
      ['again', again],
    ]);
    for (const [id, state] of [
      ['dropped', 'discarded'],
      ['fixed', 'replayed'],
    ]) {
      expect(await read(`/entry/${id}`)).toEqual([
        404,
        expect.objectContaining({ refused: [expect.objectContaining({ state })] }),
      ]);
    }
    const list = async () => ((await read('/entries/refused'))[1] as { refused: Refused[] }).refused;
    const listed = async () => Object.fromEntries((await list()).map(({ customerId, state }) => [customerId, state]));
    expect(await listed()).toMatchObject({ dropped: 'discarded', fixed: 'replayed', again: 'replayed' });

    await whileWorking(async () => {
      await untilState('fixed', fixed, 'stored');
      await untilState('again', again, 'refused');
    });
    expect(await listed()).toMatchObject({ dropped: 'discarded', fixed: 'stored', again: 'refused' });
    expect((await list())[0]).toMatchObject({ customerId: 'again', receipt: again });
    expect((await list()).filter(({ customerId }) => customerId === 'again')).toHaveLength(1);
    expect(await store.deadLetters.count({})).not.toEqual([]);
  });

  test('a refused entry names its idempotency key and the request id that its partner gave, also after a replay', async () => {
    const post = async (path: string, body: unknown, headers: Record<string, string>, method = 'POST') => {
      const given = { 'x-api-key': project.apiKey, 'content-type': 'application/json', ...headers };
      const response = await fetch(ingress.url + path, { method, headers: given, body: JSON.stringify(body) });
      expect(response.status).toBeLessThan(300);
    };
    const bad = (customerId: string) => ({ customerId, customerEmail: 'bad@example.com' });
    await post('/entry', bad('request with key'), { 'idempotency-key': 'order-1' });
    await post('/entry', bad('request with id'), { 'x-request-id': 'import-42' });
    await post('/entry', bad('request without'), { 'x-request-id': 'not valid' });
    const both = { idempotencyKey: 'nightly', requestId: 'import-43' };
    const ids = Array.from({ length: 5 }, (_, i) => `request in batch ${i}`);
    await post('/entries', [...ids.map(bad), { customerId: 'good', customerEmail: 'a@example.com' }], {
      ...{ 'idempotency-key': both.idempotencyKey, 'x-request-id': both.requestId },
    });
    const expected: Record<string, object> = {
      'request with key': { idempotencyKey: 'order-1' },
      'request with id': { requestId: 'import-42' },
      'request without': {},
      ...Object.fromEntries(ids.map((id) => [id, both])),
    };
    const listed = async () => {
      const [, body] = await read('/entries/refused?limit=1000');
      const { refused } = body as { refused: Refused[] };
      return refused.filter(({ customerId }) => customerId.startsWith('request '));
    };
    const namesOf = ({ idempotencyKey, requestId }: Refused) =>
      JSON.parse(JSON.stringify({ idempotencyKey, requestId })) as object;
    const expectNames = async (state: string) =>
      expect(
        Object.fromEntries(
          (await listed()).filter((one) => one.state === state).map((one) => [one.customerId, namesOf(one)]),
        ),
      ).toEqual(expected);
    const areRefused = async () => (await listed()).filter(({ state }) => state === 'refused').length === 8;
    await whileWorking(() => waitFor(areRefused, { description: 'all entries to be refused' }));
    await expectNames('refused');
    for (const id of Object.keys(expected)) expect(await replayAll(id)).toEqual({ replayed: 1, skipped: 0, traced: 1 });
    await expectNames('replayed');
    await whileWorking(() => waitFor(areRefused, { description: 'all entries to be refused again' }));
    await expectNames('refused');
    expect(
      (
        await fateOf(
          'request with key',
          (await listed()).find(({ customerId }) => customerId === 'request with key')?.receipt ?? '',
        )
      ).refused,
    ).toMatchObject({ idempotencyKey: 'order-1' });
    for (const id of Object.keys(expected)) expect(await store.deadLetters.discard({ customerId: id })).toBe(1);
    await expectNames('discarded');
  });

  test('an entry whose claim a newer entry took along is pending while its job waits', async () => {
    const receipt = await send('overtaken', { customerEmail: 'a@example.com' });
    const shard = shardOf(project.projectId, 'overtaken', SHARDS);
    const [claim] = await queue.readClaims(shard, project.projectId, [{ customerId: 'overtaken' }]);
    const admitted = { projectId: project.projectId, customerId: 'overtaken', version: claim?.version ?? 0 };
    await queue.release(shard, [{ ...admitted, previous: undefined }]);
    expect(await queue.readClaims(shard, project.projectId, [{ customerId: 'overtaken' }])).toEqual([undefined]);
    expect(await stateOf('overtaken', receipt)).toBe('pending');
    // Entries of the last two seconds are pending anyway.
    const isOld = async () => Date.now() > admitted.version / 1_000 + 2_000;
    await waitFor(isOld, { description: 'the entry to be two seconds old' });
    expect(await stateOf('overtaken', receipt)).toBe('pending');
    await whileWorking(() => untilState('overtaken', receipt, 'stored'));
  });

  test('a receipt of no entry that we know is unknown; one of another customer is a 400', async () => {
    const receipt = toReceipt({ customerId: 'nobody', version: (Date.now() - 60_000) * 1_000, fields: { email: 'a' } });
    expect(await fateOf('nobody', receipt)).toEqual({ statusCode: 200, state: 'unknown' });
    await expectSameTogether([['nobody', receipt]]);
    const error = { statusCode: 400, error: 'Bad Request', message: 'path/receipt must be a receipt of this customer' };
    for (const path of [
      `/entry/another/receipts/${receipt}`,
      '/entry/nobody/receipts/x',
      '/entry/nobody/receipts/%00',
    ]) {
      expect(await read(path)).toEqual([400, error]);
    }
    expect((await read(`/entry/${'x'.repeat(256)}/receipts/${receipt}`))[0]).toBe(400);
    expect((await read('/entry/nobody/receipts/%'))[0]).toBe(400);
    expect((await read(`/entry/nobody/receipts/${receipt}`, 'wrong'))[0]).toBe(401);
    const { apiKey } = await store.projects.create('another');
    expect(await read(`/entry/nobody/receipts/${receipt}`, apiKey)).toEqual([
      200,
      { statusCode: 200, state: 'unknown' },
    ]);
  });

  const known = {
    customerId: 7519,
    receipt: toReceipt({ customerId: '7519', version: 10 ** 15, fields: { email: 'a' } }),
  };
  test.each<[string, number, string, string]>([
    ['no array', 400, JSON.stringify(known), 'body must be array'],
    ['no JSON', 400, '[{]', 'body must be valid JSON'],
    ['nothing', 400, '[]', 'body must have at least one entry'],
    ['no object', 400, JSON.stringify([known, 1]), 'body/1 must be object'],
    ['no receipt', 400, '[{"customerId":7519}]', "body/0 must have required property 'receipt'"],
    ['no text', 400, JSON.stringify([{ ...known, receipt: 1 }]), 'body/0/receipt must be string'],
    ['no id', 400, JSON.stringify([{ ...known, customerId: null }]), 'body/0/customerId must be string,integer'],
    [
      'a receipt of another customer',
      400,
      JSON.stringify([known, known, { ...known, customerId: '07519' }]),
      'body/2/receipt must be a receipt of this customer',
    ],
    ['an element that is too large', 400, JSON.stringify([known, 'x'.repeat(17_000)]), 'body/1 is too large'],
    ['too many', 413, JSON.stringify(Array(1_001).fill(known)), 'body must not have more than 1000 entries'],
    ['too much', 413, JSON.stringify(['x'.repeat(2 ** 20)]), 'body must not be larger than 1 MiB'],
  ])('a question for many receipts with %s is a %d that names it', async (_, status, body, message) => {
    const response = await askAll(body);
    expect([response.status, await response.json()]).toMatchObject([status, { statusCode: status, message }]);
  });

  test('questions for many receipts, right or wrong, take nothing from the rate limit', async () => {
    const limited = await store.projects.create('limited');
    await store.projects.setLimit(limited.projectId, { rate: 1, burst: 1 });
    for (const body of [JSON.stringify([known]), '[1]', 'x'.repeat(20_000)]) {
      const { status, headers } = await askAll(body, {}, limited.apiKey);
      expect([status, headers.get('ratelimit')]).toEqual([body.startsWith('[{') ? 200 : 400, null]);
    }
    const entry = { customerId: 1, customerPhone: '+1' };
    const sent = await call('/entry', { method: 'POST', body: JSON.stringify(entry) }, limited.apiKey);
    expect(sent.status).toBe(201);
  });

  test('a customer shows its refused entries until something newer covers them, also in a 404', async () => {
    const first = await send('jane', { customerEmail: 'bad 1' });
    await whileWorking(() => untilState('jane', first, 'refused'));
    const entry = { customerId: 'jane', receipt: first, ...INVALID, refusedAt: isoTime, state: 'refused' };
    const missing = { statusCode: 404, error: 'Not Found', message: 'customer does not exist', refused: [entry] };
    const [status, body] = await read('/entry/jane');
    expect([status, body]).toEqual([404, missing]);
    expect(Object.keys(body as object)).toEqual(Object.keys(missing));

    const second = await send('jane', { customerPhone: '+1' });
    const third = await send('jane', { customerEmail: 'bad 2', customerPhone: '+2' });
    await whileWorking(async () => {
      await untilState('jane', second, 'stored');
      await untilState('jane', third, 'refused');
    });
    const refusedOf = async (id: string) => ((await read(`/entry/${id}`))[1] as { refused?: Refused[] }).refused;
    expect(await refusedOf('jane')).toMatchObject([{ receipt: third }, { receipt: first }]);

    const newer = await send('jane', { customerEmail: 'jane@example.com' });
    await whileWorking(() => untilState('jane', newer, 'stored'));
    expect([await stateOf('jane', first), await stateOf('jane', third)]).toEqual(['stored', 'refused']); // its phone
    expect(await refusedOf('jane')).toMatchObject([{ receipt: third }]);

    const erasure = await erase('jane');
    expect((await read('/entry/jane'))[1]).toEqual({
      ...{ statusCode: 404, error: 'Not Found', message: 'customer is being erased' },
    });
    await whileWorking(() => untilState('jane', erasure, 'stored'));
    expect(await refusedOf('jane')).toBeUndefined();
    for (const receipt of [first, second, third, newer]) expect(await stateOf('jane', receipt)).toBe('stored');
  });

  test('a customer shows at most 20 refused entries', async () => {
    const T0 = Date.now() * 1_000;
    const entries = Array.from({ length: 30 }, (_, i) => ({
      ...{ customerId: 'many', version: T0 + i, fields: { email: 'a' } },
    }));
    const { projectId } = project;
    await store.deadLetters.add(entries.map((entry) => ({ projectId, entry, payload: entry, error: 'no' })));
    const [, body] = await read('/entry/many');
    const { refused = [] } = body as { refused?: Refused[] };
    expect(refused.map(({ receipt }) => receipt)).toEqual(entries.toReversed().slice(0, 20).map(toReceipt));
    await store.deadLetters.discard({ customerId: 'many' });
  });

  test('the list has pages, and no entries of another project', async () => {
    const { projectId, apiKey } = await store.projects.create('pages');
    const entries = Array.from({ length: 250 }, (_, i) => ({
      customerId: `c${i}`,
      version: i + 1,
      fields: { email: 'a' },
    }));
    for (const entry of entries.slice(0, 5))
      await store.deadLetters.add([{ projectId, entry, payload: entry, error: 'no' }]);
    await store.deadLetters.add(
      entries.slice(5).map((entry) => ({ projectId, entry, payload: entry, error: 'no', sqlState: '23505' })),
    );
    await store.deadLetters.add([{ payload: {}, error: 'job data is not a chunk' }]);
    const page = async (query: string) =>
      (await read(`/entries/refused?${query}`, apiKey))[1] as { refused: Refused[]; cursor: string | null };
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const found = await page(`limit=60${cursor ? `&cursor=${cursor}` : ''}`);
      seen.push(...found.refused.map(({ customerId }) => customerId));
      cursor = found.cursor;
      const entry = { customerId: `new ${seen.length}`, version: 1_000, fields: { email: 'a' } };
      await store.deadLetters.add([{ projectId, entry, payload: entry, error: 'no' }]);
      await store.deadLetters.discard({ projectId, customerId: 'c0' });
    } while (cursor !== null);
    expect(seen).toEqual(entries.map(({ customerId }) => customerId).toReversed());
    expect((await page('')).refused).toHaveLength(100);
    expect((await page('limit=1000')).refused).toHaveLength(255);
    expect(await page('since=2999-01-01T00:00Z')).toEqual({ statusCode: 200, refused: [], cursor: null });
    expect((await page('limit=1000&since=2026-01-01')).refused).toHaveLength(255);
    const others = ((await read('/entries/refused?limit=1000'))[1] as { refused: Refused[] }).refused;
    expect(others.some(({ customerId }) => /^(c|new )\d/.test(customerId))).toBe(false);
    await store.deadLetters.discard({ projectId });
  });

  test.each([
    ['since=yesterday', 'query/since must be an ISO 8601 time such as 2026-11-30T12:00:00Z'],
    ['since=2026-11-30&since=2026-11-30', 'query/since must be given once'],
    ['cursor=x', 'query/cursor must be that of an answer'],
    ['limit=1001', 'query/limit must be an integer from 1 to 1000'],
    ['from=2026-11-30', 'query/from is not known, use since, cursor or limit'],
    ['__proto__=1', 'query/__proto__ is not known, use since, cursor or limit'],
    ['=', 'query/ is not known, use since, cursor or limit'],
  ])('a list with %s is a 400 that names the parameter', async (query, message) => {
    expect(await read(`/entries/refused?${query}`)).toEqual([400, { statusCode: 400, error: 'Bad Request', message }]);
  });

  test('routes with GET answer HEAD, refuse other methods, and are never cached', async () => {
    const receipt = toReceipt({ customerId: '1', version: Date.now() * 1_000, fields: { email: 'a' } });
    for (const path of [`/entry/1/receipts/${receipt}`, '/entries/refused']) {
      const head = await call(path, { method: 'HEAD' });
      expect([head.status, head.headers.get('cache-control'), await head.text()]).toEqual([200, 'no-store', '']);
      for (const method of ['POST', 'DELETE', 'PUT']) {
        const response = await call(path, { method });
        expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
      }
      expect((await call(path, {}, 'wrong')).status).toBe(401);
    }
    const response = await call('/entries/receipts');
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
  });
});

test('while PostgreSQL or the queue is down, receipts are a 503; afterwards they are answered again', async () => {
  const redis = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
  const backend = await createBackend(redis.url);
  const postgres = await startProxy(backend.databaseUrl);
  const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  const { apiKey } = await store.projects.create('acme').finally(store.close);
  const ingress = await startApp('ingress', { ...backend.env, DATABASE_URL: postgres.url });
  const statusOf = async (path: string, body?: string) => {
    const init = body === undefined ? {} : { method: 'POST', body };
    const response = await fetch(ingress.url + path, { ...init, headers: { 'x-api-key': apiKey } });
    const { message } = (await response.json()) as { message?: string };
    return [response.status, response.headers.get('retry-after'), message];
  };
  const receipt = toReceipt({ customerId: '1', version: Date.now() * 1_000, fields: { email: 'a' } });
  const receipts = `/entry/1/receipts/${receipt}`;
  const ok = [200, null, undefined];
  expect(await statusOf(receipts)).toEqual(ok);

  const away = [503, '1', 'customer could not be read, try again'];
  const many = JSON.stringify(Array(100).fill({ customerId: 1, receipt }));
  for (const [place, ofList] of [
    [postgres, [503, '1', 'refused entries could not be read, try again']],
    [redis, ok],
  ] as const) {
    await place.cut();
    for (let i = 0; i < 3; i++) {
      expect(await statusOf(receipts)).toEqual(away);
      expect(await statusOf('/entries/receipts', many)).toEqual(away);
      expect(await statusOf('/entries/refused')).toEqual(ofList);
    }
    await place.restore();
    const isBack = async (path: string) => (await statusOf(path))[0] === 200;
    for (const path of [receipts, '/entries/refused']) await waitFor(() => isBack(path), { description: path });
  }
  await ingress.stop();
  await Promise.all([postgres.close(), redis.close()]);
  await backend.drop();
});
