import { describe, expect, test } from '@jest/globals';
import {
  CREATED,
  createStart,
  LIMITED,
  REFUSED,
  type Reaction,
  readEntries,
  toBatchAnswer,
  UPDATED,
} from '../test/stub-server.js';
import type { Customer, RefusedEntry } from './index.js';

const { start } = createStart('key');

const toCustomers = (count: number): Customer[] =>
  Array.from({ length: count }, (_, i) => ({ customerId: `c-${i}`, customerPhone: '1' }));

const withReceipts = (results: unknown[], receipts: unknown): Reaction => ({
  status: 207,
  body: { statusCode: 207, message: 'OK - Multi-Status', results, receipts },
});

const entry: RefusedEntry = {
  customerId: 'a/b',
  receipt: 'hcd0fwml7xbl1k',
  code: 'VALUE_TOO_LONG',
  message: 'a value is too long',
  field: 'customerEmail',
  refusedAt: '2026-11-24T17:00:00.000Z',
  state: 'refused',
};

describe('each entry gets its own receipt:', () => {
  test('those accepted at once, and those of later requests', async () => {
    const { client } = await start((request, count) => {
      const ids = readEntries(request).map(({ customerId }) => `${customerId}-of-${count}`);
      if (count > 1)
        return withReceipts(
          ids.map(() => UPDATED),
          ids,
        );
      return withReceipts([CREATED, REFUSED, LIMITED, LIMITED], [ids[0], null, null, null]);
    });
    expect(await Promise.all(toCustomers(4).map((customer) => client.send(customer)))).toEqual([
      { created: true, receipt: 'c-0-of-1' },
      { created: false, receipt: 'c-1-of-2' },
      { created: false, receipt: 'c-2-of-2' },
      { created: false, receipt: 'c-3-of-2' },
    ]);
  });

  test('an erasure, from the header field', async () => {
    const { client } = await start(() => ({ status: 202, body: {}, headers: { receipt: 'hcd0fwml7x0l1k' } }));
    expect(await client.erase('c')).toStrictEqual({ erased: true, receipt: 'hcd0fwml7x0l1k' });
  });

  test.each<[string, Reaction]>([
    ['an older server', toBatchAnswer([CREATED])],
    ['an answer with too few', withReceipts([CREATED], [])],
    ['an answer whose receipts are no list', withReceipts([CREATED], 'r')],
    ['an answer without this one', withReceipts([CREATED], [null])],
  ])('not with %s', async (_, reaction) => {
    const { client } = await start(() => reaction);
    expect(await client.send({ customerId: 1, customerPhone: '1' })).toStrictEqual({ created: true });
  });

  test('not an erasure of an older server, or of nobody', async () => {
    const unknown = { status: 404, body: { statusCode: 404, message: 'customer does not exist' } };
    const { client } = await start((_, count) => (count === 1 ? { status: 202, body: {} } : unknown));
    expect(await client.erase('c')).toStrictEqual({ erased: true });
    expect(await client.erase('c')).toStrictEqual({ erased: false });
  });
});

describe('receiptState', () => {
  test.each([{ state: 'stored' }, { state: 'pending' }, { state: 'unknown' }, { state: 'refused', refused: entry }])(
    'says that an entry is $state',
    async (answer) => {
      const { client, server } = await start(() => ({ status: 200, body: { statusCode: 200, ...answer } }));
      expect(await client.receiptState('a/b', 'hcd0fwml7xbl1k')).toStrictEqual(answer);
      expect(server.received).toMatchObject([{ method: 'GET', path: '/entry/a%2Fb/receipts/hcd0fwml7xbl1k' }]);
    },
  );

  test('repeats a transient failure', async () => {
    const { client } = await start((_, count) =>
      count === 1 ? { status: 503, body: REFUSED } : { status: 200, body: { statusCode: 200, state: 'stored' } },
    );
    expect(await client.receiptState(1, 'r')).toEqual({ state: 'stored' });
  });

  test.each<[string, Reaction, Record<string, unknown>]>([
    [
      'of another customer’s receipt',
      { status: 400, body: { statusCode: 400, message: 'path/receipt must be a receipt of this customer' } },
      { name: 'InvalidEntryError', message: 'path/receipt must be a receipt of this customer' },
    ],
    ['of an older server', { status: 404, body: { message: 'route does not exist' } }, { name: 'OpmError' }],
    ['of another server', { status: 200, body: '<html>' }, { name: 'OpmError' }],
    ['without a known state', { status: 200, body: { state: 'lost' } }, { name: 'OpmError' }],
    ['without the refused entry', { status: 200, body: { state: 'refused' } }, { name: 'OpmError' }],
  ])('rejects for an answer %s', async (_, reaction, expected) => {
    const { client } = await start(() => reaction);
    await expect(client.receiptState(1, 'r')).rejects.toMatchObject(expected);
  });

  test.each(['', 'a/b', '..', undefined])('refuses the receipt %j before it is sent', async (receipt) => {
    const { client, server } = await start(() => ({ status: 200 }));
    await expect(client.receiptState(1, receipt as string)).rejects.toMatchObject({ name: 'InvalidEntryError' });
    expect(server.received).toHaveLength(0);
  });
});

test.each([undefined, null, Number.NaN, 1.5, 2 ** 53, {}, ['c'], true])(
  'a call for the customer %j is refused before it is sent',
  async (customerId) => {
    const { client, server } = await start(() => ({ status: 404, body: { message: 'customer does not exist' } }));
    const id = customerId as string;
    const outcomes = await Promise.allSettled([client.get(id), client.erase(id), client.receiptState(id, 'r')]);
    const message = 'path/customerId must be a string or a safe integer';
    const refused = { status: 'rejected', reason: { name: 'InvalidEntryError', statusCode: 400, message } };
    expect(outcomes).toMatchObject([refused, refused, refused]);
    expect(server.received).toHaveLength(0);
  },
);

describe('receiptStates', () => {
  const asked = Array.from({ length: 1_201 }, (_, i) => ({ customerId: i, receipt: `r${i}`, more: 'of yours' }));
  type Asked = { customerId: number; receipt: string };

  test('asks for 600 receipts per request, and tells their states in order', async () => {
    const { client, server } = await start(({ body }) => {
      const results = (JSON.parse(body) as Asked[]).map(({ customerId }) =>
        customerId === 700
          ? { statusCode: 200, state: 'refused', refused: entry }
          : { statusCode: 200, state: customerId % 2 ? 'pending' : 'stored' },
      );
      return { status: 200, body: { statusCode: 200, results } };
    });
    const states = await client.receiptStates(asked);
    expect(states).toStrictEqual(
      asked.map(({ customerId }) =>
        customerId === 700 ? { state: 'refused', refused: entry } : { state: customerId % 2 ? 'pending' : 'stored' },
      ),
    );
    const sent = server.received.map(({ method, path, body }) => [method, path, (JSON.parse(body) as Asked[]).length]);
    expect(sent).toEqual([600, 600, 1].map((count) => ['POST', '/entries/receipts', count]));
    expect(JSON.parse(server.received[2]?.body ?? '')).toEqual([{ customerId: 1_200, receipt: 'r1200' }]);
    expect(await client.receiptStates([])).toEqual([]);
  });

  test('close waits for all its requests', async () => {
    const closing: Promise<void>[] = [];
    const { client, server } = await start(({ body }) => {
      closing.push(client.close());
      return { status: 200, body: { results: (JSON.parse(body) as Asked[]).map(() => ({ state: 'stored' })) } };
    });
    expect(await client.receiptStates(asked)).toHaveLength(asked.length);
    await Promise.all(closing);
    expect(server.received).toHaveLength(3);
    await expect(client.receiptStates([])).rejects.toMatchObject({ name: 'ClosedError' });
  });

  test('a wrong receipt is named by its place in the whole array', async () => {
    const results = Array.from({ length: 600 }, () => ({ state: 'stored' }));
    const message = 'body/2/receipt must be a receipt of this customer';
    const { client } = await start((_, count) =>
      count === 1 ? { status: 200, body: { results } } : { status: 400, body: { statusCode: 400, message } },
    );
    await expect(client.receiptStates(asked)).rejects.toMatchObject({
      ...{ name: 'InvalidEntryError', message: 'body/602/receipt must be a receipt of this customer' },
    });
  });

  test.each<[string, Reaction]>([
    ['of an older server', { status: 405, body: { message: 'method is not allowed' } }],
    ['of another server', { status: 200, body: '<html>' }],
    ['with too few results', { status: 200, body: { results: [] } }],
    ['with an unknown state', { status: 200, body: { results: [{ state: 'lost' }] } }],
  ])('rejects for an answer %s', async (_, reaction) => {
    const { client } = await start(() => reaction);
    await expect(client.receiptStates([{ customerId: 1, receipt: 'r' }])).rejects.toMatchObject({ name: 'OpmError' });
  });
});

describe('usage and keys', () => {
  test('a Date is its day in UTC, a string is sent as it is', async () => {
    const { client, server } = await start(() => ({ status: 200, body: { days: [] } }));
    await client.usage({ from: new Date('2026-11-24T00:30:00+01:00'), to: '2026-11-30' });
    await client.usage();
    expect(server.received.map(({ path }) => path)).toEqual(['/usage?from=2026-11-23&to=2026-11-30', '/usage?']);
    await expect(client.usage({ to: new Date('never') })).rejects.toThrow(TypeError);
  });

  test.each<[string, Reaction]>([
    ['of an older server', { status: 404, body: { message: 'route does not exist' } }],
    ['of another server', { status: 200, body: '<html>' }],
    ['without objects', { status: 200, body: { days: [1], keys: [1] } }],
  ])('reject for an answer %s', async (_, reaction) => {
    const { client } = await start(() => reaction);
    await expect(client.usage()).rejects.toMatchObject({ name: 'OpmError' });
    await expect(client.keys()).rejects.toMatchObject({ name: 'OpmError' });
  });
});

describe('refused', () => {
  const toPage = (refused: unknown, cursor: unknown): Reaction => ({ status: 200, body: { refused, cursor } });

  test('reads page after page, each one only when it is needed', async () => {
    const pages = [
      toPage(
        [
          { ...entry, receipt: '1' },
          { ...entry, receipt: '2' },
        ],
        'x+/=',
      ),
      toPage([], 'y'),
      toPage([entry], null),
    ];
    const { client, server } = await start((_, count) => pages[count - 1] ?? { status: 500 });
    const entries = client.refused({ since: new Date('2026-11-24T17:00:00+01:00') });
    expect(server.received).toHaveLength(0);
    expect((await entries.next()).value).toMatchObject({ receipt: '1' });
    expect((await entries.next()).value).toMatchObject({ receipt: '2' });
    expect(server.received).toHaveLength(1);
    const rest: RefusedEntry[] = [];
    for await (const refused of entries) rest.push(refused);
    expect(rest).toEqual([entry]);
    const queries = server.received.map(({ path }) => new URL(path, 'http://_'));
    expect(queries.map(({ pathname, searchParams }) => ({ pathname, ...Object.fromEntries(searchParams) }))).toEqual(
      [{}, { cursor: 'x+/=' }, { cursor: 'y' }].map((cursor) => ({
        pathname: '/entries/refused',
        since: '2026-11-24T16:00:00.000Z',
        limit: '1000',
        ...cursor,
      })),
    );
  });

  test('without since, asks for all', async () => {
    const { client, server } = await start(() => toPage([], null));
    for await (const _ of client.refused()) throw new Error('there is none');
    expect(server.received).toMatchObject([{ path: '/entries/refused?limit=1000' }]);
  });

  test.each<[string, Reaction]>([
    ['of an older server', { status: 404, body: { message: 'route does not exist' } }],
    ['of another server', { status: 200, body: '<html>' }],
    ['without a cursor', toPage([], undefined)],
    ['without entries', toPage([null], null)],
  ])('rejects for an answer %s', async (_, reaction) => {
    const { client } = await start(() => reaction);
    await expect(client.refused().next()).rejects.toMatchObject({ name: 'OpmError' });
  });

  test('refuses a wrong since, and ends with its signal and with the client', async () => {
    const { client, server } = await start(() => toPage([entry], 'more'));
    await expect(client.refused({ since: 'yesterday' }).next()).rejects.toThrow('since must be a Date or an ISO time');
    const reason = new Error('no longer needed');
    await expect(client.refused({ signal: AbortSignal.abort(reason) }).next()).rejects.toBe(reason);
    expect(server.received).toHaveLength(0);
    const entries = client.refused();
    await entries.next();
    await client.close();
    await expect(entries.next()).rejects.toMatchObject({ name: 'ClosedError' });
  });
});

test('get shows the refused entries of a customer, if there are any', async () => {
  const found = { statusCode: 200, customer: {}, pending: false };
  const { client } = await start((_, count) => ({
    status: 200,
    body: count > 1 ? { ...found, refused: [entry] } : found,
  }));
  expect(await client.get(1)).toStrictEqual({ customer: {}, pending: false });
  expect(await client.get(1)).toStrictEqual({ customer: {}, pending: false, refused: [entry] });
});
