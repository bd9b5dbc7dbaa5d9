import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createBackend, waitFor } from '@opm/testkit';
import fc from 'fast-check';
import pMap from 'p-map';
import { isAccepted } from './answers.js';
import { toEntryRequest, toRequest } from './requests.js';
import { explore, SOME_AT_ONCE } from './runs.js';
import { Stack } from './stack.js';
import { closing, dial } from './talk.js';

let stack: Stack;
beforeAll(async () => {
  stack = await Stack.start(await createBackend(process.env.OPM_TEST_REDIS_URL));
});
afterAll(async () => {
  await stack.expectUnharmed();
  await stack.stop();
});

test('pipelined entries are answered in order, however the bytes are split', async () => {
  const property = fc.asyncProperty(fc.integer({ min: 1, max: 8 }), fc.array(fc.nat()), async (count, cuts) => {
    const project = await stack.createProject();
    const ids = Array.from({ length: count }, (_, i) => `${i}`);
    const stream = ids.map((id) => toEntryRequest(project.apiKey, id)).join('');
    const places = [...new Set(cuts.map((cut) => cut % stream.length))].sort((a, b) => a - b);
    const pieces = [0, ...places].map((start, i) => stream.slice(start, places[i]));
    const answers = await stack.talk(pieces, { answers: count });
    expect(answers.map(({ status }) => status)).toEqual(ids.map(() => 201));
    expect([...(await stack.readRows(project)).keys()].sort()).toEqual(ids);
  });
  await explore(property);
});

test('a request that ends after any of its bytes is not accepted', async () => {
  const project = await stack.createProject();
  const whole = toEntryRequest(project.apiKey, 'half');
  const ends = Array.from({ length: whole.length - 1 }, (_, i) => whole.slice(0, i + 1));
  const answers = await pMap(ends, (half) => stack.talk([half], { end: true }), SOME_AT_ONCE);
  expect(answers.flat().filter(isAccepted)).toEqual([]);
  expect(await stack.readRows(project)).toEqual(new Map());
});

test('a client that ends its side gets the answers to everything it has sent', async () => {
  const project = await stack.createProject();
  const ids = ['a', 'b', 'c'];
  const stream = ids.map((id) => toEntryRequest(project.apiKey, id)).join('');
  for (const pieces of [[stream], [stream.slice(0, 300), stream.slice(300)]]) {
    const answers = await stack.talk(pieces, { end: true });
    expect(answers.map(isAccepted)).toEqual([true, true, true]);
  }
  expect([...(await stack.readRows(project)).keys()].sort()).toEqual(ids);
});

test('a request that asks for another protocol, and those after it, are answered as usual', async () => {
  const project = await stack.createProject();
  const upgrade = ['connection: upgrade, http2-settings', 'upgrade: h2c', 'http2-settings: AAMAAABkAARAAAAAAAIAAAAA'];
  const ids = Array.from({ length: 8 }, (_, i) => `${i}`);
  // Some requests ask for the upgrade: first, last and in a row.
  const asks = (id: string) => ['1', '3', '4', '7'].includes(id);
  const stream = ids.map((id) => toEntryRequest(project.apiKey, id, asks(id) ? upgrade : [])).join('');
  const property = fc.asyncProperty(fc.array(fc.nat(), { maxLength: 4 }), fc.boolean(), async (cuts, end) => {
    const places = [...new Set(cuts.map((cut) => cut % stream.length))].sort((a, b) => a - b);
    const pieces = [0, ...places].map((start, i) => stream.slice(start, places[i]));
    const answers = await stack.talk(pieces, end ? { end } : { answers: ids.length });
    expect(answers.map(isAccepted)).toEqual(ids.map(() => true));
  });
  await explore(property);
  expect([...(await stack.readRows(project)).keys()].sort()).toEqual(ids);
});

const token = fc.oneof(
  fc.constantFrom('\r\n', '\n', '\r\n\r\n', '0\r\n\r\n', ' ', ':', '\0', 'HTTP/1.1', '\r\nexpect: 100-continue'),
  fc.constantFrom('\r\ntransfer-encoding: chunked', '\r\ncontent-length: 5', '\r\nconnection: close', '5\r\nhello\r\n'),
  fc.uint8Array({ maxLength: 5 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
);
const changes = fc.array(fc.record({ at: fc.nat(), removed: fc.nat(5), added: token }), { minLength: 1, maxLength: 5 });

test('whatever bytes of requests change, there are no more rows than requests, and every answer is documented', async () => {
  const property = fc.asyncProperty(fc.array(changes, { maxLength: 20 }), async (streams) => {
    const project = await stack.createProject();
    const exchanges = streams.map((drawn, i) => {
      let stream = ['a', 'b'].map((id) => toEntryRequest(project.apiKey, `${i}${id}`)).join('');
      for (const { at, removed, added } of drawn) {
        const start = at % stream.length;
        stream = stream.slice(0, start) + added + stream.slice(start + removed);
      }
      return stack.talk([stream], { end: true });
    });
    const accepted = (await Promise.all(exchanges)).flat().filter(isAccepted);
    const rows = await stack.readRows(project);
    if (accepted.length > 0) expect(rows.size).toBeGreaterThan(0);
    expect(rows.size).toBeLessThanOrEqual(2 * streams.length);
  });
  await explore(property);
});

test('a client that floods and never reads is disconnected, and others are still served', async () => {
  const partner = await stack.createProject();
  const flooding = await stack.createProject();
  const key = `x-api-key: ${flooding.apiKey}`;
  const floods = [
    toRequest('GET /ping', [key]),
    toRequest('GET /ping', ['x-api-key: wrong']),
    toRequest('GET /ping', [`x-api-key: opm_${'a'.repeat(36)}`]),
    toRequest('GET /nowhere', []),
    toEntryRequest(flooding.apiKey, 'flood'),
    toRequest('POST /entry', [key, 'content-length: 3'], '[1]'),
    'x'.repeat(100),
  ];
  const ends = floods.map(async (piece) => {
    const socket = dial(stack.port).pause();
    socket.write(Buffer.from(piece.repeat(Math.ceil(20_000_000 / piece.length))));
    await closing(socket);
  });
  const isServed = async () => (await stack.post(partner, '{"customerId":1,"customerPhone":"1"}')).status === 201;
  await waitFor(isServed, { description: 'an answer beside the floods' });
  await Promise.all(ends);
});
