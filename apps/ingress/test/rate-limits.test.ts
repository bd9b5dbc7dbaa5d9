import { randomBytes, randomUUID } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { RateLimit } from '@opm/core';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, createBackend, startApp, startProxy, type TestApp, waitFor } from '@opm/testkit';
import { parseList } from 'structured-headers';

type Answer = { status: number; headers: Headers; body: Body };
type Body = { statusCode: number; message: string; results?: Body[] };
type Project = { projectId: number; apiKey: string };

const LIMITED = {
  statusCode: 429,
  error: 'Too Many Requests',
  message: 'entry was not accepted, your rate limit is reached, try again after the seconds in retry-after',
};

const isAccepted = ({ status }: { status: number }) => status === 201 || status === 202;

async function ask(
  ingress: TestApp,
  apiKey: string,
  method: string,
  path: string,
  body?: unknown,
  idempotencyKey?: string,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await fetch(ingress.url + path, {
    method,
    headers: {
      'x-api-key': apiKey,
      ...(idempotencyKey && { 'idempotency-key': idempotencyKey }),
      ...(Buffer.isBuffer(body) && { 'content-type': 'application/x-ndjson' }),
      ...headers,
    },
    ...(body !== undefined && { body: Buffer.isBuffer(body) ? new Uint8Array(body) : JSON.stringify(body) }),
  });
  const answer = {
    status: response.status,
    headers: response.headers,
    body: (await response.json()) as Answer['body'],
  };
  if ([answer.body, ...(answer.body.results ?? [])].some(({ statusCode }) => statusCode === 503))
    throw new Away(answer);
  return answer;
}

/** Thrown for a 503, which a busy machine may give. It may have used tokens. */
class Away {
  constructor(readonly answer: Answer) {}
}

/** Repeats the whole test if it got a 503. */
async function undisturbed(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof Away)) throw error;
    await undisturbed(run);
  }
}

/** 5 KiB that inflate to 5 MiB. */
const BOMB = gzipSync(Buffer.alloc(5 * 2 ** 20));

let nextId = 1;
const fresh = (customerId = `customer ${nextId++}`) => ({ customerId, customerPhone: '+1' });
const post = (ingress: TestApp, { apiKey }: Project, entry: unknown = fresh(), key?: string) =>
  ask(ingress, apiKey, 'POST', '/entry', entry, key);
const postLines = (ingress: TestApp, { apiKey }: Project, lines: string) =>
  ask(ingress, apiKey, 'POST', '/entries', Buffer.from(lines));
const postGzip = (ingress: TestApp, { apiKey }: Project, path: string, body: Buffer) =>
  ask(ingress, apiKey, 'POST', path, body, undefined, { 'content-encoding': 'gzip' });
const postAll = (ingress: TestApp, { apiKey }: Project, entries: unknown[], key?: string) =>
  ask(ingress, apiKey, 'POST', '/entries', entries, key);

async function find(ingress: TestApp, { apiKey }: Project, { customerId }: { customerId: string }) {
  const { status, body } = await ask(ingress, apiKey, 'GET', `/entry/${encodeURIComponent(customerId)}`);
  return [status, body.message];
}
const NOT_FOUND = [404, 'customer does not exist'];

/** Parses the two headers. They must be structured field lists with one policy, named "burst". */
function parseFields({ headers }: Answer) {
  const parse = (name: string) => {
    const [[policy, parameters]] = parseList(headers.get(name) ?? '') as [[string, Map<string, number>]];
    expect(policy).toBe('burst');
    for (const value of parameters.values()) expect(Number.isInteger(value)).toBe(true);
    return Object.fromEntries(parameters);
  };
  return { ...parse('ratelimit-policy'), ...parse('ratelimit') } as { q: number; w: number; r: number; t: number };
}
const hasFields = ({ headers }: Answer) => headers.has('ratelimit') || headers.has('ratelimit-policy');

/** Waits for `retry-after`, as a partner does. */
async function obey({ headers }: Answer): Promise<void> {
  const until = performance.now() + Number(headers.get('retry-after')) * 1_000;
  await waitFor(() => performance.now() >= until, { description: 'retry-after to be over' });
}

describe.each(BACKENDS)('rate limits, with the queue on %s and three shards:', (queue, createPlace) => {
  let backend: Backend;
  let store: Store;
  let one: TestApp;
  let other: TestApp;
  let worker: TestApp;

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const env = { ...backend.env, QUEUE_SHARDS: '3' };
    [one, other, worker] = await Promise.all([
      startApp('ingress', env),
      startApp('ingress', env),
      startApp('worker', env),
    ]);
  });
  afterAll(async () => {
    for (const app of [one, other, worker]) expect(await app.stop()).toEqual({ code: 0, signal: null });
    await store.close();
    await backend.drop();
  });

  async function createProject(name: string, limit?: RateLimit): Promise<Project> {
    const project = await store.projects.create(`${name} ${nextId++}`);
    await store.projects.setLimit(project.projectId, limit);
    return project;
  }

  /** Sends many at once; otherwise a slow machine would send less than the limit allows. */
  async function postUntilRefused(ingress: TestApp, project: Project): Promise<Answer> {
    for (;;) {
      const answers = await Promise.all(Array.from({ length: 30 }, () => post(ingress, project)));
      const refused = answers.filter(({ status }) => status === 429);
      expect(answers.filter(isAccepted).length + refused.length).toBe(answers.length);
      if (refused.length > 0) return refused.at(-1) as Answer;
    }
  }

  test('two ingresses together accept the burst and what the rate adds, with few token reservations', async () => {
    const limit = { rate: 2, burst: 60 };
    const [limited, unlimited] = await Promise.all([createProject('limited', limit), createProject('unlimited')]);
    const answers: { status: number; sentAt: number; answeredAt: number }[] = [];
    const startedAt = performance.now();

    async function sendUntilRefused(ingress: TestApp): Promise<void> {
      let status = 0;
      while (status !== 429 || answers.filter(isAccepted).length < limit.burst + 3 * limit.rate) {
        const sentAt = performance.now();
        ({ status } = await post(ingress, limited).catch(({ answer }: Away) => answer));
        answers.push({ status, sentAt, answeredAt: performance.now() });
      }
    }
    async function sendBeside(ingress: TestApp): Promise<void> {
      for (let i = 0; i < 2 * limit.burst; i++) {
        const answer = await post(ingress, unlimited).catch(({ answer }: Away) => answer);
        expect([answer.status === 429, hasFields(answer)]).toEqual([false, false]);
      }
    }
    const senders = [one, other, one, other].map(sendUntilRefused);
    await Promise.all([...senders, sendBeside(one), sendBeside(other)]);

    const accepted = answers.filter(isAccepted);
    const refused = answers.filter(({ status }) => status === 429);
    const away = answers.length - accepted.length - refused.length;
    const seconds = (performance.now() - startedAt) / 1_000;
    expect(accepted.length).toBeLessThanOrEqual(limit.burst + limit.rate * seconds);
    // The bucket was full at least until the first answer, and empty when the last entry was refused. The slack covers
    // tokens reserved in advance, the time of one reservation, and lost answers.
    const first = Math.min(...answers.map(({ answeredAt }) => answeredAt));
    const last = Math.max(...refused.map(({ sentAt }) => sentAt));
    const slowest = Math.max(...answers.map(({ sentAt, answeredAt }) => answeredAt - sentAt));
    const slack = 2 * Math.max(limit.rate / 10, limit.burst / 16) + (limit.rate * slowest) / 1_000 + 20 * away;
    expect(accepted.length).toBeGreaterThanOrEqual(limit.burst + (limit.rate * (last - first)) / 1_000 - slack);

    for (const metric of ['opm_token_leases_total', 'opm_shed_total{reason="rate-limit"}']) {
      const [a, b] = await Promise.all([one.readMetric(metric), other.readMetric(metric)]);
      if (metric.startsWith('opm_shed')) expect(a + b).toBe(refused.length);
      else expect(a + b).toBeLessThanOrEqual(2 * (20 + 45 * seconds));
    }
  });

  test('the headers follow the draft; a client that obeys them, or waits after a 429, is accepted', () =>
    undisturbed(async () => {
      const project = await createProject('obedient', { rate: 2, burst: 5 });
      const first = await post(one, project);
      expect([isAccepted(first), parseFields(first)]).toEqual([
        true,
        { q: 5, w: 3, 'opm-rate': 2, r: expect.any(Number), t: 1 },
      ]);
      expect([4, 5]).toContain(parseFields(first).r); // five again if the answer took half a second
      for (let { r } = parseFields(first); r > 0; r--) expect(isAccepted(await post(one, project))).toBe(true);

      const refused = await postUntilRefused(one, project);
      expect(refused.body).toEqual(LIMITED);
      expect(refused.headers.get('retry-after')).toBe('1');
      expect(parseFields(refused)).toEqual({ q: 5, w: 3, 'opm-rate': 2, r: 0, t: 1 });
      await obey(refused);
      expect(isAccepted(await post(other, project))).toBe(true);
    }));

  test('a refused entry has no effect: no version, no claim, no job', async () => {
    const project = await createProject('refused', { rate: 1, burst: 1 });
    const chunks = () => one.readMetric('opm_chunk_entries_sum');
    const before = await chunks();
    const entries = Array.from({ length: 20 }, () => fresh());
    const send = (entry: unknown) => post(one, project, entry).catch(({ answer }: Away) => answer);
    const answers = await Promise.all(entries.map(send));
    const refused = entries.filter((_, i) => answers[i]?.status === 429);
    expect(refused.length).toBeGreaterThan(0);
    const queued = (await chunks()) - before;
    expect(queued).toBeGreaterThanOrEqual(answers.filter(isAccepted).length);
    expect(queued).toBeLessThanOrEqual(20 - refused.length);
    for (const entry of refused) expect(await find(one, project, entry)).toEqual(NOT_FOUND);
  });

  test('a set, changed or removed limit takes effect in every ingress without a restart', () =>
    undisturbed(async () => {
      const project = await createProject('changing');
      const isInForce = (limit: RateLimit | undefined) => async () => {
        const answers = await Promise.all([one, other].map((ingress) => post(ingress, project)));
        return answers.every((answer) =>
          limit ? hasFields(answer) && parseFields(answer).q === limit.burst : !hasFields(answer),
        );
      };
      for (const limit of [
        { rate: 1, burst: 2 },
        { rate: 1_000_000, burst: 1_000_000 },
        { rate: 1, burst: 3 },
        undefined,
      ]) {
        await store.projects.setLimit(project.projectId, limit);
        await waitFor(isInForce(limit), { description: 'the limit to be in force' });
        if (limit?.rate === 1) await postUntilRefused(one, project);
        else for (let i = 0; i < 50; i++) expect(isAccepted(await post(i % 2 ? one : other, project))).toBe(true);
      }
    }));

  test.each([
    ['retried after retry-after', () => undefined],
    ['retried with a new idempotency key each time', randomUUID],
  ])('a batch is accepted up to the limit; %s, the rest follows in order', (_how, createKey) =>
    undisturbed(async () => {
      const limit = { rate: 100, burst: 250 };
      const project = await createProject('batches', limit);
      const customers = 7;
      const entries = Array.from({ length: 600 }, (_, i) => ({
        ...fresh(`ordered ${i % customers}`),
        customerFirstName: String(i),
      }));
      let left = entries;
      while (left.length > 0) {
        const startedAt = performance.now();
        const answer = await postAll(one, project, left, createKey());
        const results = answer.body.results ?? [];
        expect(answer.status).toBe(207);
        const accepted = results.filter(({ statusCode }) => statusCode < 300).length;
        // After the first refused entry, no entry is accepted.
        expect(results.slice(0, accepted).every(({ statusCode }) => statusCode < 300)).toBe(true);
        for (const result of results.slice(accepted)) expect(result).toEqual(LIMITED);
        expect(accepted).toBeGreaterThanOrEqual(Math.min(left.length, limit.burst));
        const brought = (limit.rate * (performance.now() - startedAt)) / 1_000;
        expect(accepted).toBeLessThanOrEqual(limit.burst + brought);
        left = left.slice(accepted);
        if (left.length === 0) break;
        const { r, t } = parseFields(answer);
        expect([r, t]).toEqual([0, Number(answer.headers.get('retry-after'))]);
        await obey(answer);
      }
      for (let i = entries.length - customers; i < entries.length; i++) {
        const stored = async () =>
          (await store.customers.find(project.projectId, `ordered ${i % customers}`))?.firstName === String(i);
        await waitFor(stored, { description: 'the last entry to be stored' });
      }
    }),
  );

  test('a keyed batch longer than the burst comes to its end when it is repeated; what is done costs no token again', () =>
    undisturbed(async () => {
      const limit = { rate: 100, burst: 250 };
      const project = await createProject('repeated batches', limit);
      const entries = Array.from({ length: 900 }, () => fresh());
      const key = randomUUID();
      const codes = ({ body: { results = [] } }: Answer) => results.map(({ statusCode }) => statusCode);
      let done = 0;
      let last: Answer | undefined;
      for (let repeat = 0; done < entries.length; repeat++) {
        expect(repeat).toBeLessThan(entries.length / limit.burst);
        if (last) await obey(last);
        const startedAt = performance.now();
        last = await postAll(repeat % 2 ? other : one, project, entries, key);
        expect([last.status, last.headers.has('idempotent-replayed')]).toEqual([207, false]);
        const accepted = codes(last).filter((code) => code === 201).length;
        expect(codes(last)).toEqual(entries.map((_, i) => (i < accepted ? 201 : 429)));
        const brought = (limit.rate * (performance.now() - startedAt)) / 1_000;
        expect(accepted - done).toBeGreaterThanOrEqual(Math.min(entries.length - done, limit.burst));
        expect(accepted - done).toBeLessThanOrEqual(limit.burst + brought);
        done = accepted;
      }
      const isReplay = async () => {
        const replay = await postAll(other, project, entries, key);
        expect([codes(replay), hasFields(replay)]).toEqual([entries.map(() => 201), false]);
        return replay.headers.has('idempotent-replayed');
      };
      await waitFor(isReplay, { description: 'the verdicts to be stored' });
    }));

  test('a replayed response uses no token and has no rate limit headers', () =>
    undisturbed(async () => {
      const project = await createProject('repeats', { rate: 1, burst: 30 });
      const [entry, key] = [fresh(), randomUUID()];
      const first = await post(one, project, entry, key);
      const before = parseFields(first).r;
      for (let i = 0; i < 40; i++) {
        const repeat = await post(other, project, entry, key);
        expect([repeat.status, repeat.body, hasFields(repeat)]).toEqual([first.status, first.body, false]);
        const reused = await post(other, project, fresh(), key);
        expect([reused.status, hasFields(reused)]).toEqual([422, false]);
      }
      expect(parseFields(await post(one, project)).r).toBeGreaterThanOrEqual(before - 1);
    }));

  if (queue === 'PostgreSQL') return; // the rest is what requests cost, whatever has the tokens

  const times = <T>(count: number, make: () => T) => Array.from({ length: count }, make);
  const lines = (text: string) => (project: Project) => postLines(one, project, text);
  test.each<[what: string, send: (project: Project) => Promise<Answer>, status: number, tokens: number]>([
    ['a small entry', (project) => post(one, project, { customerId: 1 }), 400, 1],
    ['a large entry', (project) => post(one, project, { customerId: 'x'.repeat(10_000) }), 400, 10],
    ['an entry that is too large', (project) => post(one, project, 'x'.repeat(100_000)), 413, 98],
    ['entries of a batch', (project) => postAll(one, project, [...times(9, () => ({})), 'x'.repeat(5_000)]), 207, 14],
    ['lines', lines(`${'{}\n'.repeat(100)}"${'x'.repeat(5_000)}"`), 207, 105],
    ['too many lines', lines('{}\n'.repeat(5_000)), 413, 15],
    ['an entry that inflates above its limit', (project) => postGzip(one, project, '/entry', BOMB), 413, 16],
    ['a batch that inflates above its limit', (project) => postGzip(one, project, '/entries', BOMB), 413, 1_024],
    [
      'a batch that inflates to 300 KiB and breaks off',
      (project) => postGzip(one, project, '/entries', gzipSync(Buffer.alloc(300 * 1024)).subarray(0, -1)),
      400,
      300,
    ],
    [
      'a compressed batch that inflates to no more and breaks off, whose bytes count twice',
      (project) => postGzip(one, project, '/entries', gzipSync(randomBytes(10 * 1024)).subarray(0, -1)),
      400,
      21,
    ],
    [
      'compressed lines, two of them invalid',
      (project) => postGzip(one, project, '/entries', gzipSync(`1\n"${'x'.repeat(5_000)}"`)),
      207,
      6,
    ],
    ['a MiB of blank lines', lines('\n'.repeat(2 ** 20)), 400, 1_024],
    ['blank lines after an entry', lines(`{"customerId":1}${'\r\n'.repeat(50_000)}`), 207, 98],
    ['an erasure', ({ apiKey }) => ask(one, apiKey, 'DELETE', '/entry/%00'), 400, 1],
  ])(
    'a refused request keeps its own error and costs a token per KiB or part of one: %s',
    (_what, send, status, tokens) =>
      undisturbed(async () => {
        const burst = 2 * tokens;
        const project = await createProject('refused', { rate: 1, burst });
        const startedAt = performance.now();
        const answer = await send(project);
        const seconds = Math.ceil((performance.now() - startedAt) / 1_000);
        expect(answer.status).toBe(status);
        // The rate adds some, and some may have been reserved in advance.
        expect(parseFields(answer).r).toBeLessThanOrEqual(tokens + seconds);
        expect(parseFields(answer).r).toBeGreaterThanOrEqual(tokens - Math.ceil(burst / 16));
      }),
  );

  test('a few blank lines between valid entries cost no tokens', () =>
    undisturbed(async () => {
      const project = await createProject('blank lines', { rate: 1, burst: 500 });
      const lines = Array.from({ length: 300 }, () => `${JSON.stringify(fresh())}\r\n\r\n`).join('');
      const answer = await postLines(one, project, lines);
      expect(answer.body).toMatchObject({ statusCode: 207, accepted: 300, rejected: 0 });
      // Some may be reserved in advance.
      expect(parseFields(answer).r).toBeGreaterThanOrEqual(200 - Math.ceil(500 / 16));
    }));

  test('valid entries get tokens first; after too many invalid ones, a request is a 429 before its body is read', () =>
    undisturbed(async () => {
      const project = await createProject('wrong ones', { rate: 2, burst: 2 });
      const wrong = Array.from({ length: 5 }, () => ({ customerId: 1 }));
      const answer = await postAll(one, project, [...wrong, fresh(), ...wrong, fresh()]);
      expect(answer.body).toMatchObject({ statusCode: 207, accepted: 2, rejected: 10 });
      expect(parseFields(answer).r).toBe(0);
      expect([3, 4, 5]).toContain(parseFields(answer).t); // the rate adds two tokens a second
      const refused = await postLines(one, project, '\n');
      expect([refused.body, refused.headers.get('retry-after')]).toEqual([LIMITED, expect.stringMatching(/^[1-5]$/)]);
      await obey(refused);
      expect((await post(one, project)).status).toBe(201);
    }));

  test('a batch without any accepted entry is a 429, as a single entry is', () =>
    undisturbed(async () => {
      const project = await createProject('too many', { rate: 1, burst: 2 });
      const refused = async () => {
        const batch = () => postAll(one, project, [fresh(), fresh()]);
        const all = await Promise.all(Array.from({ length: 10 }, batch)); // at once, or the rate may add tokens
        return all.find(({ status }) => status === 429);
      };
      const last = await waitFor(refused, { description: 'a batch to be refused' });
      expect([last.body, last.headers.get('retry-after')]).toEqual([LIMITED, '2']);
    }));

  test('refused entries are logged once per project, reason and minute, with the id of the first request', () =>
    undisturbed(async () => {
      const project = await createProject('logged', { rate: 1, burst: 5 });
      const invalid = [await post(one, project, { customerId: 1 }), await post(one, project, { customerId: 2 })];
      expect(invalid.map(({ status }) => status)).toEqual([400, 400]);
      for (let i = 0; i < 2; i++) await postUntilRefused(one, project);
      const unlimited = await createProject('logged last');
      await post(one, unlimited, { customerId: 1 });
      const linesOf = ({ projectId }: Project) =>
        (one.output().match(/.*refused a project's entries.*/g) ?? [])
          .map((line) => JSON.parse(line))
          .filter((line) => line.projectId === projectId);
      await waitFor(() => linesOf(unlimited).length > 0, { description: 'the last log line' });
      expect(linesOf(project)).toMatchObject([
        { reason: 'BODY_INVALID', requestId: invalid[0]?.headers.get('x-request-id'), leftOut: 0 },
        { reason: 'RATE_LIMITED', requestId: expect.any(String), leftOut: 0 },
      ]);
    }));

  test('a project without a limit is never charged', async () => {
    const project = await createProject('unlimited');
    for (let i = 0; i < 3; i++) {
      const answer = await postLines(one, project, '\n'.repeat(2 ** 20));
      expect([answer.status, hasFields(answer)]).toEqual([400, false]);
    }
    expect((await post(one, project)).status).toBe(201);
  });

  test('an erasure counts as an entry; reading a customer and checking the key do not', () =>
    undisturbed(async () => {
      const project = await createProject('reading', { rate: 1, burst: 20 });
      const before = parseFields(await post(one, project, fresh('read'))).r;
      for (let i = 0; i < 60; i++) {
        for (const path of ['/entry/read', '/ping']) {
          const answer = await ask(one, project.apiKey, 'GET', path);
          expect([answer.status, hasFields(answer)]).toEqual([200, false]);
        }
      }
      const erased = await ask(one, project.apiKey, 'DELETE', '/entry/read');
      expect(erased.status).toBe(202);
      expect(parseFields(erased).r).toBeGreaterThanOrEqual(before - 1);
      const erase = async (_: unknown, id: number) =>
        (await ask(one, project.apiKey, 'DELETE', `/entry/nobody-${id}`)).status;
      const statuses = new Set(await Promise.all(Array.from({ length: 100 }, erase)));
      expect([...statuses].sort()).toEqual([404, 429]);
    }));
});

test('while the token store does not answer, an entry is a 503 and has no effect', async () => {
  const redis = await startProxy(String(process.env.OPM_TEST_REDIS_URL));
  const backend = await createBackend(redis.url);
  const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  const project = await store.projects.create('acme');
  await store.projects.setLimit(project.projectId, { rate: 1_000, burst: 1_000 });
  const ingress = await startApp('ingress', { ...backend.env, ANSWER_TIMEOUT_MS: '8000' });
  const isWorking = async () => isAccepted(await post(ingress, project));
  await waitFor(isWorking, { description: 'entries to be accepted' });
  const entry = fresh();
  for (const away of [redis.cut, redis.swallow]) {
    await away();
    const answer = await post(ingress, project, entry).catch((away: Away) => away.answer);
    expect([answer.status, answer.headers.get('retry-after'), hasFields(answer)]).toEqual([503, '1', false]);
    expect(answer.body.message).toBe('entry was not accepted, try again');
    await redis.restore();
    await waitFor(isWorking, { description: 'entries to be accepted again' });
  }
  expect(await find(ingress, project, entry)).toEqual(NOT_FOUND);
  await ingress.stop();
  await store.close();
  await redis.close();
  await backend.drop();
});
