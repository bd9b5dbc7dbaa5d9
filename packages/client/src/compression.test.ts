import { expect, test } from '@jest/globals';
import { acceptAll, createStart, type Reaction, type Received, readEntries } from '../test/stub-server.js';
import type { Customer, OpmClient } from './index.js';

const { start } = createStart('key');

const sendMany = (client: OpmClient, count = 100) =>
  Promise.all(
    Array.from(
      { length: count },
      (_, i): Customer => ({ customerId: `c-${i}`, customerEmail: 'jörg@example.com' }),
    ).map((customer) => client.send(customer)),
  );

const encodingsOf = (received: Received[]) => received.map(({ headers }) => headers['content-encoding']);

const refuseGzip = (request: Received): Reaction =>
  request.headers['content-encoding'] === undefined
    ? acceptAll(request)
    : { status: 415, body: { statusCode: 415, message: 'body must not be compressed' } };

test('a large batch is sent as gzip, a small one is not', async () => {
  const { client, server } = await start(acceptAll);
  await sendMany(client);
  await sendMany(client, 2);
  expect(encodingsOf(server.received)).toEqual(['gzip', undefined]);
  const [large] = server.received;
  expect(large && readEntries(large)).toHaveLength(100);
  expect(Number(large?.headers['content-length'])).toBeLessThan((large?.body.length ?? 0) / 4);
});

test('a server that does not read gzip gets the batch without it, with the same key, and no other batch with it', async () => {
  const { client, server } = await start(refuseGzip);
  expect(await sendMany(client)).toHaveLength(100);
  expect(await sendMany(client)).toHaveLength(100);
  expect(encodingsOf(server.received)).toEqual(['gzip', undefined, undefined]);
  const [first, second, third] = server.received.map(({ body, headers }) => ({
    body,
    key: headers['idempotency-key'],
  }));
  expect(second).toEqual(first);
  expect(third?.key).not.toBe(first?.key);
});

test('a retry has the same key, compressed or not', async () => {
  const reactions: Reaction[] = ['cut', { status: 503 }, { status: 415 }, 'cut'];
  const { client, server } = await start((request, count) => reactions[count - 1] ?? acceptAll(request));
  await sendMany(client);
  expect(encodingsOf(server.received)).toEqual(['gzip', 'gzip', 'gzip', undefined, undefined]);
  expect(new Set(server.received.map(({ headers }) => headers['idempotency-key'])).size).toBe(1);
  expect(new Set(server.received.map(({ body }) => body)).size).toBe(1);
});

test('with compress: false, nothing is compressed', async () => {
  const { client, server } = await start(acceptAll, { compress: false });
  await sendMany(client);
  expect(encodingsOf(server.received)).toEqual([undefined]);
});

test('a 415 without compression is an error', async () => {
  const { client, server } = await start(() => ({
    status: 415,
    body: { statusCode: 415, message: 'body must be JSON' },
  }));
  await expect(sendMany(client)).rejects.toMatchObject({ statusCode: 415, message: 'body must be JSON' });
  await expect(client.send({ customerId: 1, customerPhone: '1' })).rejects.toMatchObject({ statusCode: 415 });
  expect(server.received).toHaveLength(3);
});
