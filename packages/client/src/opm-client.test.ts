import { readFileSync } from 'node:fs';
import { Agent as HttpsAgent } from 'node:https';
import { inspect } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import { FAULTS } from '@opm/contract';
import {
  acceptAll,
  CREATED,
  createStart,
  type Reaction,
  type Received,
  readEntries,
  startStubServer,
  toBatchAnswer,
  UPDATED,
} from '../test/stub-server.js';
import { VERSION } from './http-transport.js';
import { type Customer, OpmClient, type OpmClientOptions, OpmError } from './index.js';

const KEY = 'opm_secret-key';
const JANE: Customer = { customerId: 7519, customerEmail: 'jane@example.com' };

const { start, releases } = createStart(KEY);

const toCustomers = (count: number): Customer[] =>
  Array.from({ length: count }, (_, i) => ({ customerId: `c-${i}`, customerEmail: 'a@example.com' }));

/** A gate that requests wait at. */
function createGate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

const failureOf = (call: Promise<unknown>): Promise<OpmError> =>
  call.then(
    () => Promise.reject(new Error('the call succeeded')),
    (error) => error,
  );

test('a lone entry is sent at once; entries that come while a request is in flight are sent together', async () => {
  const [arrived, gate] = [createGate(), createGate()];
  const { client, server } = await start(
    async (request) => {
      arrived.open();
      await gate.opened;
      return acceptAll(request);
    },
    { maxInFlight: 1 },
  );
  const [first = JANE, ...others] = toCustomers(1_701);
  const calls = [client.send(first)];
  await arrived.opened;
  for (const customer of others) calls.push(client.send(customer));
  gate.open();
  expect(await Promise.all(calls)).toEqual(Array.from({ length: 1_701 }, () => ({ created: true })));
  expect(server.received.map((request) => readEntries(request).length)).toEqual([1, 1_000, 700]);
});

test('at most maxInFlight requests are in flight', async () => {
  let [underWay, most] = [0, 0];
  const full = createGate();
  const { client } = await start(
    async (request) => {
      most = Math.max(most, ++underWay);
      if (underWay === 3) full.open();
      await full.opened;
      underWay--;
      return acceptAll(request);
    },
    { maxInFlight: 3 },
  );
  await Promise.all(toCustomers(7_500).map((customer) => client.send(customer)));
  expect(most).toBe(3);
});

test('no request is larger than 1 MiB, in bytes', async () => {
  const { client, server } = await start(acceptAll);
  const customers = toCustomers(150).map((customer) => ({ ...customer, customerFirstName: '€'.repeat(5_000) }));
  await Promise.all(customers.map((customer) => client.send(customer)));
  const sizes = server.received.map(({ body }) => Buffer.byteLength(body));
  expect(Math.max(...sizes)).toBeLessThanOrEqual(1_048_576);
  expect(Math.max(...sizes)).toBeGreaterThan(1_000_000);
  expect(server.received.flatMap(readEntries)).toHaveLength(150);
});

test('the customer is sent as it was when the call was made', async () => {
  const { client, server } = await start(acceptAll);
  const customer = { ...JANE };
  const sent = client.send(customer);
  customer.customerEmail = 'changed';
  await sent;
  expect(server.received.flatMap(readEntries)).toEqual([JANE]);
});

describe('a transient failure is retried with the same body and idempotency key:', () => {
  test.each<[string, Reaction]>([
    ['a cut connection', 'cut'],
    ['no answer in time', 'hang'],
    ['an upgrade that nobody asked for', { status: 101, headers: { connection: 'upgrade', upgrade: 'other' } }],
    ...[408, 500, 502, 503, 504].map((status): [string, Reaction] => [
      `status ${status}`,
      { status, body: 'not even JSON' },
    ]),
  ])('%s', async (_, reaction) => {
    const react = (request: Parameters<typeof acceptAll>[0], count: number) =>
      count < 3 ? reaction : acceptAll(request);
    const { client, server } = await start(react, { timeoutMs: reaction === 'hang' ? 2_000 : 60_000 });
    expect(await client.send(JANE)).toEqual({ created: true });
    const [first, ...others] = server.received.map(({ body, headers }) => ({ body, key: headers['idempotency-key'] }));
    expect(first?.key).toMatch(/^[\da-f-]{36}$/);
    expect(others).toEqual([first, first]);
  });
});

describe('a permanent failure is one typed error, without a retry:', () => {
  test.each<[string, Reaction, Record<string, unknown>]>([
    [
      '401',
      { status: 401, body: { message: 'API key does not exist' } },
      { name: 'AuthenticationError', statusCode: 401, message: 'API key does not exist' },
    ],
    ['422', { status: 422, body: { message: 'key reused' } }, { name: 'IdempotencyError', statusCode: 422 }],
    ['413', { status: 413, body: { message: 'too large' } }, { name: 'InvalidEntryError', statusCode: 413 }],
    [
      '404 of another server',
      { status: 404, body: '<html>' },
      { name: 'OpmError', message: 'unexpected answer with status 404' },
    ],
    [
      'a redirect',
      { status: 301, headers: { location: 'https://example.com' } },
      { name: 'OpmError', statusCode: 301 },
    ],
    [
      '200 of a proxy’s page',
      { status: 200, body: '<html>' },
      { name: 'OpmError', message: 'unexpected answer with status 200' },
    ],
    ['too few results', toBatchAnswer([]), { name: 'OpmError', statusCode: 207 }],
    ['an invalid result', toBatchAnswer([null]), { name: 'OpmError' }],
  ])('%s', async (_, reaction, expected) => {
    const { client, server } = await start(() => reaction);
    const error = await failureOf(client.send(JANE));
    expect(error).toBeInstanceOf(OpmError);
    expect(error).toMatchObject({ requestId: 'request-1', ...expected });
    expect(server.received).toHaveLength(1);
  });
});

test('each entry gets its own result', async () => {
  const invalid = { statusCode: 400, error: 'Bad Request', message: 'body/customerEmail must be string' };
  const { client } = await start(() => toBatchAnswer([CREATED, invalid, UPDATED]));
  const outcomes = await Promise.allSettled(toCustomers(3).map((customer) => client.send(customer)));
  expect(outcomes).toMatchObject([
    { value: { created: true } },
    { reason: { name: 'InvalidEntryError', statusCode: 400, message: invalid.message, requestId: 'request-1' } },
    { value: { created: false } },
  ]);
});

test('only the entries of a batch that failed transiently are sent again, in order and with a new key', async () => {
  const refused = (statusCode: number) => ({ statusCode, message: 'try again' });
  const { client, server } = await start((request, count) =>
    count === 1
      ? toBatchAnswer([CREATED, refused(503), UPDATED, refused(429), refused(503)], { 'retry-after': '1' })
      : acceptAll(request),
  );
  const startedAt = performance.now();
  const outcomes = await Promise.all(toCustomers(5).map((customer) => client.send(customer)));
  expect(outcomes.map(({ created }) => created)).toEqual([true, true, false, true, true]);
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(999);
  const [first, second] = server.received;
  expect(server.received.map((request) => readEntries(request).map(({ customerId }) => customerId))).toEqual([
    ['c-0', 'c-1', 'c-2', 'c-3', 'c-4'],
    ['c-1', 'c-3', 'c-4'],
  ]);
  expect(second?.headers['idempotency-key']).not.toBe(first?.headers['idempotency-key']);
});

describe('what the limit refuses is sent again, together with what waits by then:', () => {
  test.each<[string, Reaction]>([
    ['a whole request', { status: 429, body: { message: 'too fast' } }],
    ['a batch', toBatchAnswer([CREATED, { statusCode: 429, message: 'too fast' }])],
  ])('%s', async (_, refusal) => {
    const { client, server } = await start((request, count) => (count < 2 ? refusal : acceptAll(request)));
    const calls = toCustomers(2).map((customer) => client.send(customer));
    await expect(Promise.all(calls)).resolves.toHaveLength(2);
    const keys = server.received.map(({ headers }) => headers['idempotency-key']);
    expect(new Set(keys).size).toBe(2);
  });

  test('an erasure', async () => {
    const { client, server } = await start((_, count) => ({ status: count < 3 ? 429 : 202, body: {} }));
    expect(await client.erase(1)).toEqual({ erased: true });
    expect(server.received.map(({ method, path }) => `${method} ${path}`)).toEqual(Array(3).fill('DELETE /entry/1'));
  });

  test('in the customer’s order, even if more entries came meanwhile', async () => {
    const send = (phone: string) => client.send({ customerId: 'a', customerPhone: phone });
    const later: Promise<unknown>[] = [];
    const { client, server } = await start((request, count) => {
      if (count > 1) return acceptAll(request);
      later.push(send('3'));
      return toBatchAnswer([CREATED, { statusCode: 429 }]);
    });
    await Promise.all([send('1'), send('2')]);
    await Promise.all(later);
    const [, ...again] = server.received.map((request) => readEntries(request));
    expect(again.flat().map(({ customerPhone }) => customerPhone)).toEqual(['2', '3']);
  });
});

describe('after an attempt that may have been accepted, a 429 is followed by the same request with the same key:', () => {
  const limited: Reaction = { status: 429, body: { message: 'too fast' } };
  const toRequests = (received: Received[]) =>
    received.map(({ method, body, headers }) => ({ method, body, key: headers['idempotency-key'] }));

  test.each<[string, Reaction]>([
    ['a lost answer', 'cut'],
    ['a 500', { status: 500, body: {} }],
    ['a 503', { status: 503, body: {} }],
  ])('%s', async (_, unsure) => {
    const reactions = [unsure, limited, limited];
    const { client, server } = await start((request, count) => reactions[count - 1] ?? acceptAll(request));
    expect(await client.send(JANE)).toEqual({ created: true });
    const [first, ...others] = toRequests(server.received);
    expect(others).toEqual([first, first, first]);
  });

  test('an erasure', async () => {
    const reactions = ['cut' as const, limited];
    const { client, server } = await start((_, count) => reactions[count - 1] ?? { status: 202, body: {} });
    expect(await client.erase(1)).toEqual({ erased: true });
    const [first, ...others] = toRequests(server.received);
    expect(others).toEqual([first, first]);
  });

  test('it waits as long as the limit needs, even if Retry-After is beyond the deadline', async () => {
    const limit = { 'ratelimit-policy': '"burst";q=1000;w=10', ratelimit: '"burst";r=0;t=10' };
    const reactions: Reaction[] = ['cut', { status: 429, body: {}, headers: { 'retry-after': '10', ...limit } }];
    const react = (request: Received, count: number) => reactions[count - 1] ?? acceptAll(request);
    const { client, server } = await start(react, { deadlineMs: 9_000 });
    await Promise.all(toCustomers(1_000).map((customer) => client.send(customer)));
    expect(server.received).toHaveLength(3);
  });
});

describe('while the server remembers too many idempotency keys, the request is repeated at once without one:', () => {
  const { statusCode: status, retryAfterSeconds, ...body } = FAULTS.TOO_MANY_IDEMPOTENCY_KEYS;
  const headers = {
    'retry-after': String(retryAfterSeconds),
    'ratelimit-policy': '"burst";q=10;w=10',
    ratelimit: '"burst";r=0;t=60',
  };
  const refuseKeys =
    (accept: (request: Received) => Reaction) =>
    (request: Received): Reaction =>
      request.headers['idempotency-key'] === undefined ? accept(request) : { status, body, headers };

  test('entries, whose pace it does not slow', async () => {
    const { client, server } = await start(refuseKeys(acceptAll), { maxInFlight: 1, deadlineMs: 30_000 });
    expect(await Promise.all(toCustomers(1_500).map((customer) => client.send(customer)))).toHaveLength(1_500);
    expect(server.received.map((request) => readEntries(request).length)).toEqual([1_000, 1_000, 500, 500]);
    expect(server.received[1]?.body).toBe(server.received[0]?.body);
  });

  test('an erasure', async () => {
    const { client, server } = await start(refuseKeys(() => ({ status: 202, body: {} })));
    expect(await client.erase(1)).toEqual({ erased: true });
    expect(server.received).toHaveLength(2);
  });

  test('and stays without one if it is lost then', async () => {
    let isLost = false;
    const { client, server } = await start(
      refuseKeys((request) => {
        if (isLost) return acceptAll(request);
        isLost = true;
        return 'cut';
      }),
    );
    expect(await client.send(JANE)).toEqual({ created: true });
    const keys = server.received.map(({ headers }) => typeof headers['idempotency-key']);
    expect(keys).toEqual(['string', 'undefined', 'undefined']);
  });
});

test('while the limit holds, requests go one at a time, with at most as many entries as it allows', async () => {
  const limited = (remaining: number) => ({
    'ratelimit-policy': '"burst";q=50;w=1',
    ratelimit: `"burst";r=${remaining};t=1`,
  });
  let underWay = 0;
  const together: number[] = [];
  const gate = createGate();
  const { client, server } = await start(async (request, count) => {
    underWay++;
    if (count === 4) gate.open();
    if (count <= 4) await gate.opened;
    else together.push(underWay);
    await new Promise(setImmediate);
    underWay--;
    if (count <= 4) return { status: 429, body: {}, headers: { 'retry-after': '1', ...limited(0) } };
    return { ...(acceptAll(request) as { status: number }), headers: limited(0) };
  });
  const calls = toCustomers(4_100).map((customer) => client.send(customer));
  let taken = 0;
  await new Promise<void>((resolve) => {
    // In the end, most are open.
    for (const call of calls) call.then(() => ++taken === 100 && resolve()).catch(() => {});
  });
  const sizes = server.received.map((request) => readEntries(request).length);
  expect(sizes.slice(0, 4)).toEqual([1_000, 1_000, 1_000, 1_000]);
  // The exact sizes depend on timing.
  expect(Math.max(...sizes.slice(4))).toBeGreaterThan(1);
  expect(Math.max(...sizes.slice(4))).toBeLessThanOrEqual(50);
  expect(Math.max(...together)).toBe(1);
});

test.each([
  [503, 'UnavailableError'],
  [429, 'RateLimitError'],
])(
  'if the Retry-After of a %s is beyond the deadline, the call fails at once and has the retryAfter',
  async (status, name) => {
    const { client, server } = await start(() => ({
      status,
      body: { message: 'busy' },
      headers: { 'retry-after': '90' },
    }));
    expect(await failureOf(client.send(JANE))).toMatchObject({
      name,
      statusCode: status,
      message: 'busy',
      retryAfter: 90,
      requestId: 'request-1',
    });
    expect(server.received).toHaveLength(1);
  },
);

test('a call that could only be sent after its deadline fails at once, with the server’s message', async () => {
  const refusal = { status: 429, body: { message: 'too fast' }, headers: { 'retry-after': '3000000' } };
  const { client, server } = await start(() => refusal, { maxInFlight: 1 });
  const [first = JANE, ...others] = toCustomers(3);
  const calls: Promise<unknown>[] = [client.send(first)];
  await new Promise(setImmediate);
  calls.push(...others.map((customer) => client.send(customer)));
  await Promise.allSettled(calls);
  calls.push(client.send(JANE), client.erase(1));
  for (const call of calls) expect(await failureOf(call)).toMatchObject({ name: 'RateLimitError', retryAfter: 3e6 });
  expect(server.received).toHaveLength(1);
});

test('retries end at the deadline, with the last failure', async () => {
  const { client } = await start(() => ({ status: 429, body: { message: 'too fast' } }), { deadlineMs: 3_000 });
  expect(await failureOf(client.send(JANE))).toMatchObject({ name: 'RateLimitError', message: 'too fast' });
});

test('behind requests that hang, a call fails within deadlineMs plus timeoutMs', async () => {
  const { client, server } = await start(() => 'hang', { deadlineMs: 2_000, timeoutMs: 1_000, maxInFlight: 1 });
  const first = failureOf(client.send(JANE));
  const second = failureOf(client.send({ ...JANE, customerPhone: '1' }));
  expect(await first).toMatchObject({ name: 'TimeoutError', message: expect.stringContaining('within 1000 ms') });
  expect(await second).toMatchObject({ name: 'TimeoutError' });
  expect(new Set(server.received.flatMap(readEntries).map(({ customerPhone }) => customerPhone)).size).toBeLessThan(3);
});

test('at most maxInFlight reads are in flight, and they do not delay entries', async () => {
  const gate = createGate();
  const found = { statusCode: 200, customer: {}, pending: false };
  const { client, server } = await start(
    async (request) => {
      if (request.method === 'POST') return acceptAll(request);
      await gate.opened;
      return { status: 200, body: found };
    },
    { maxInFlight: 1 },
  );
  const reads = Array.from({ length: 10 }, (_, id) => client.get(id));
  expect(await client.send(JANE)).toEqual({ created: true });
  expect(server.received.filter(({ method }) => method === 'GET').length).toBeLessThan(2);
  gate.open();
  expect(await Promise.all(reads)).toEqual(reads.map(() => ({ customer: {}, pending: false })));
});

test('a read whose turn does not come before its deadline fails', async () => {
  const { client, server } = await start(() => 'hang', { deadlineMs: 1_000, timeoutMs: 2_000, maxInFlight: 1 });
  const [first, ...others] = Array.from({ length: 10 }, (_, id) => failureOf(client.get(id)));
  expect(await first).toMatchObject({ name: 'TimeoutError', message: expect.stringContaining('within 2000 ms') });
  for (const call of others) {
    expect(await call).toMatchObject({ name: 'TimeoutError', message: 'not sent before the deadline' });
  }
  expect(server.received).toHaveLength(1);
});

test.each<[string, Reaction]>([
  ['a page', { status: 200, body: '<html>' }],
  ['other JSON', { status: 200, body: { message: 'welcome', customer: 'none' } }],
  ['no JSON object', { status: 200, body: 'null' }],
])('a 200 with %s is not an answer of the API', async (_, reaction) => {
  const { client } = await start(() => reaction);
  for (const call of [client.ping(), client.get(1)]) {
    expect(await failureOf(call)).toMatchObject({ name: 'OpmError', message: 'unexpected answer with status 200' });
  }
});

test('an agent for another protocol is an OpmError', async () => {
  const { client } = await start(acceptAll, { agent: new HttpsAgent() });
  for (const call of [client.ping(), client.send(JANE), client.erase(1)]) {
    expect(await failureOf(call)).toMatchObject({ name: 'OpmError', message: expect.stringContaining('Protocol') });
  }
});

test('entries of one customer are never in two requests at once, and erasures keep their place among them', async () => {
  let underWay = 0;
  const { client, server } = await start(async ({ method, path, body }) => {
    expect(++underWay).toBe(1);
    await new Promise(setImmediate);
    underWay--;
    if (method === 'DELETE') return { status: 202, body: {} };
    expect(path).toBe('/entries');
    return acceptAll({ method, path, headers: {}, body });
  });
  const send = (phone: string) => client.send({ customerId: 'a/b', customerPhone: phone });
  const calls: Promise<unknown>[] = [send('1'), send('2'), client.erase('a/b'), send('3')];
  await new Promise(setImmediate);
  calls.push(send('4'), client.erase('a/b'));
  expect((await Promise.all(calls)).slice(2, 3)).toEqual([{ erased: true }]);
  const seen = server.received.map(({ method, path, body }) =>
    method === 'DELETE' ? path : JSON.parse(body).map(({ customerPhone }: Customer) => customerPhone),
  );
  expect(seen.flat()).toEqual(['1', '2', '/entry/a%2Fb', '3', '4', '/entry/a%2Fb']);
});

test('erase says whether there was a customer; get and erase tell a missing customer from a missing route', async () => {
  const unknown = { status: 404, body: { statusCode: 404, message: 'customer does not exist' } };
  const { client } = await start(({ path }) =>
    path.endsWith('/known') ? unknown : { status: 404, body: { message: 'route does not exist' } },
  );
  expect(await client.erase('known')).toEqual({ erased: false });
  expect(await client.get('known')).toBeUndefined();
  expect(await failureOf(client.erase('other'))).toMatchObject({ message: 'route does not exist' });
  expect(await failureOf(client.get('other'))).toMatchObject({ message: 'route does not exist' });
  for (const nobody of ['\ud800', '']) {
    expect(await failureOf(client.get(nobody))).toMatchObject({ name: 'InvalidEntryError', statusCode: 400 });
    expect(await failureOf(client.erase(nobody))).toMatchObject({ name: 'InvalidEntryError', statusCode: 400 });
  }
});

test('a call beyond maxQueued is rejected, and ready waits for room', async () => {
  const gate = createGate();
  const { client, server } = await start(
    async (request) => {
      await gate.opened;
      return acceptAll(request);
    },
    { maxQueued: 2 },
  );
  const [one, two, three = JANE] = toCustomers(3);
  const taken = [one, two].map((customer = JANE) => client.send(customer));
  expect(await failureOf(client.send(three))).toMatchObject({ name: 'QueueFullError' });
  let isReady = false;
  const sent = client.ready().then(() => {
    isReady = true;
    return client.send(three);
  });
  await new Promise(setImmediate);
  expect(isReady).toBe(false);
  gate.open();
  await Promise.all([...taken, sent]);
  await client.ready();
  expect(server.received.flatMap(readEntries)).toHaveLength(3);
});

test('a producer that awaits ready sends everything, even if another waiter does not use its slot', async () => {
  const { client, server } = await start(acceptAll, { maxQueued: 1 });
  const calls: Promise<unknown>[] = [];
  for (const customer of toCustomers(20)) {
    const unused = client.ready();
    await client.ready();
    calls.push(client.send(customer));
    await unused;
  }
  await Promise.all(calls);
  await client.flush();
  expect(server.received.flatMap(readEntries)).toHaveLength(20);
});

test('of many producers that await ready, none gets more room than there is', async () => {
  const { client, server } = await start(acceptAll, { maxQueued: 3 });
  const produce = async (customer: Customer) => {
    await client.ready();
    return client.send(customer);
  };
  expect(await Promise.all(toCustomers(40).map(produce))).toHaveLength(40);
  expect(server.received.flatMap(readEntries)).toHaveLength(40);
});

test('a signal may be of another implementation than that of Node', async () => {
  const listeners = new Set<() => void>();
  const signal = {
    aborted: false,
    reason: new Error('no longer needed'),
    addEventListener: (_: 'abort', listener: () => void) => void listeners.add(listener),
    removeEventListener: (_: 'abort', listener: () => void) => void listeners.delete(listener),
  };
  const { client } = await start(({ method }) => (method === 'GET' ? 'hang' : toBatchAnswer([CREATED])));
  expect(await client.send(JANE, { signal })).toEqual({ created: true });
  expect(listeners.size).toBe(0);
  const read = client.get(1, { signal });
  for (const abort of listeners) abort();
  await expect(read).rejects.toBe(signal.reason);
});

describe('a signal rejects its call with its reason:', () => {
  test('before the call, nothing is sent', async () => {
    const { client, server } = await start(acceptAll);
    const reason = new Error('no longer needed');
    await expect(client.send(JANE, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(client.get(1, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await client.flush();
    expect(server.received).toHaveLength(0);
  });

  test('in the queue, the entry is not sent', async () => {
    const gate = createGate();
    const { client, server } = await start(
      async (request) => {
        await gate.opened;
        return acceptAll(request);
      },
      { maxInFlight: 1 },
    );
    const first = client.send(JANE);
    const ended = new AbortController();
    const queued = client.send({ ...JANE, customerPhone: 'ended' }, { signal: ended.signal });
    const last = client.send({ ...JANE, customerPhone: 'last' });
    ended.abort();
    await expect(queued).rejects.toMatchObject({ name: 'AbortError' });
    gate.open();
    await Promise.all([first, last]);
    expect(server.received.flatMap(readEntries).map(({ customerPhone }) => customerPhone)).toEqual([undefined, 'last']);
  });

  test('in flight, the others of its batch continue', async () => {
    const gate = createGate();
    const ended = new AbortController();
    const { client } = await start(async (request) => {
      ended.abort();
      await gate.opened;
      return acceptAll(request);
    });
    const [one = JANE, two = JANE] = toCustomers(2);
    const other = client.send(two);
    await expect(client.send(one, { signal: ended.signal })).rejects.toMatchObject({ name: 'AbortError' });
    gate.open();
    expect(await other).toEqual({ created: true });
  });

  test('in flight and alone, the request is aborted', async () => {
    const ended = new AbortController();
    const { client } = await start(() => {
      ended.abort();
      return 'hang';
    });
    await expect(client.get(1, { signal: ended.signal })).rejects.toMatchObject({ name: 'AbortError' });
    await client.close();
  });
});

test('close waits for open calls, rejects new ones, and may be called twice', async () => {
  const { client } = await start(acceptAll);
  const sent = client.send(JANE);
  await Promise.all([client.close(), client.close({ timeoutMs: Number.POSITIVE_INFINITY })]);
  expect(await sent).toEqual({ created: true });
  for (const call of [() => client.send(JANE), () => client.erase(1), () => client.get(1), () => client.ping()]) {
    expect(await failureOf(call())).toMatchObject({ name: 'ClosedError', message: 'the client is closed' });
  }
});

test('close with a timeout rejects the calls that are still open then', async () => {
  const { client } = await start(() => 'hang', { maxInFlight: 1 });
  const calls = [client.send(JANE), client.send(JANE), client.erase(1), client.get(1), client.ping()].map(failureOf);
  await client.close({ timeoutMs: 50 });
  for (const call of calls) expect(await call).toMatchObject({ name: 'ClosedError' });
});

test('neither errors nor a printed client show the key or what was sent', async () => {
  const secret = 'jane@secret.example';
  const reactions: Reaction[] = ['cut', { status: 401, body: {} }, toBatchAnswer([{ statusCode: 400, message: 'no' }])];
  for (const reaction of reactions) {
    const { client } = await start(() => reaction, { deadlineMs: 0 });
    const error = await failureOf(client.send({ customerId: secret, customerEmail: secret }));
    const shown = inspect([error, client], { depth: 20, showHidden: true }) + error.stack;
    expect(shown).not.toContain(secret);
    expect(shown).not.toContain(KEY);
  }
});

test.each<[string, Partial<Record<keyof OpmClientOptions, unknown>>]>([
  ['url', { url: 'secret' }],
  ['url', { url: 'ftp://secret' }],
  ['url', { url: 'http://user:secret@example.com' }],
  ['apiKey', { apiKey: '' }],
  ['apiKey', { apiKey: 'secret\n' }],
  ['apiKey', { apiKey: undefined }],
  ['timeoutMs', { timeoutMs: 0 }],
  ['deadlineMs', { deadlineMs: Number.POSITIVE_INFINITY }],
  ['maxQueued', { maxQueued: 1.5 }],
  ['maxInFlight', { maxInFlight: '4' }],
  ['compress', { compress: 'secret' }],
])('an invalid option %s is refused by name, without its value: %j', (name, options) => {
  const construct = () => new OpmClient({ url: 'http://127.0.0.1', apiKey: KEY, ...options } as OpmClientOptions);
  expect(construct).toThrow(new RegExp(`^${name} must`));
  expect(construct).not.toThrow(/secret/);
});

test('a path in the URL is kept, and the user agent names the client', async () => {
  const server = await startStubServer(() => ({ status: 200, body: { statusCode: 200, message: 'pong' } }));
  releases.push(server.close);
  const client = new OpmClient({ url: `${server.url}/partners/`, apiKey: KEY });
  releases.push(() => client.close());
  await client.ping();
  expect(server.received).toMatchObject([{ path: '/partners/ping', headers: { 'x-api-key': KEY } }]);
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  expect(server.received[0]?.headers['user-agent']).toBe(
    `opm-client/${manifest.version} node/${process.versions.node}`,
  );
  expect(VERSION).toBe(manifest.version);
});
