import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import express from 'express';
import { answerWith, takeBody, toHttpClasses } from './fast-express.js';

/** The size of one read of a socket, and an HTTP chunk of one byte. */
const READ_BYTES = 64 * 1024;
const CHUNK = '1\r\nx\r\n';
const CHUNKS = 150_000;

test.each([
  ['by a taker', true],
  ['as a stream', false],
])(
  'a body in one-byte chunks is read completely %s, with at most one socket read per turn of the event loop',
  async (_, isTaken) => {
    let parts = 0;
    let bytes = 0;
    let isOver = false;
    const server = createServer(toHttpClasses(express()), (request, response) => {
      const end = () => {
        isOver = true;
        response.end();
      };
      const onPart = (part: Buffer) => {
        parts++;
        bytes += part.length;
      };
      if (isTaken) takeBody(request, { onPart, onEnd: end, onRefuse: end, onAbort: end });
      else request.on('data', onPart).on('end', end);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const socket = connect(port, '127.0.0.1');
    socket.write(
      `POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n${CHUNK.repeat(CHUNKS)}0\r\n\r\n`,
    );
    let most = 0;
    for (let before = 0; !isOver; before = parts) {
      await turn();
      most = Math.max(most, parts - before);
    }
    expect(await text(socket)).toMatch(/^HTTP\/1.1 200 /);
    expect(bytes).toBe(CHUNKS);
    expect(most).toBeLessThanOrEqual(Math.ceil(READ_BYTES / CHUNK.length));
    await new Promise((resolve) => server.close(resolve));
  },
);

test('an answer has the same headers and body if Node makes a part of its headers', async () => {
  const app = express().disable('x-powered-by').disable('etag');
  app.use((request, response) => {
    if (request.query.other) response.setHeader('other', 'header');
    answerWith(response, 202, 'one: 1\r\ntwo: 2\r\n', request.query.body === 'wide' ? 'é' : 'e');
  });
  const server = createServer({ ...toHttpClasses(app), keepAliveTimeout: 0 }, app); // as in serveIngress
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const call = async (path: string, init?: RequestInit) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
    const { date, other, ...headers } = Object.fromEntries(response.headers);
    expect(Math.abs(Date.parse(date ?? '') - Date.now())).toBeLessThan(60_000);
    return { status: response.status, statusText: response.statusText, other, headers, body: await response.text() };
  };
  const headers = { connection: 'keep-alive', 'content-length': '1', one: '1', two: '2' };
  const expected = { status: 202, statusText: 'Accepted', other: undefined, headers, body: 'e' };
  expect(await call('/')).toEqual(expected);
  expect(await call('/?other=1')).toMatchObject({ ...expected, other: 'header' });
  const closing = { ...headers, connection: 'close' }; // fetch asks for it
  expect(await call('/', { method: 'HEAD' })).toEqual({ ...expected, headers: closing, body: '' });
  for (const other of ['', '&other=1']) {
    const wide = await call(`/?body=wide${other}`);
    expect(wide).toMatchObject({ body: 'é', headers: { ...headers, 'content-length': '2' } });
  }
  const socket = connect(port, '127.0.0.1');
  socket.write('GET / HTTP/1.0\r\n\r\n');
  expect(await text(socket)).toMatch(
    /^HTTP\/1\.1 202 Accepted\r\n(?=.*\r\none: 1\r\ntwo: 2\r\n).*Connection: close\r\n.*\r\n\r\ne$/s,
  );
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});
