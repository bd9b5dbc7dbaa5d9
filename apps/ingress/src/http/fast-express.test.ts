import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request } from 'node:http';
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
  const agent = new Agent({ keepAlive: true });
  const call = async (path: string, method = 'GET') => {
    const asked = request({ port, path, method, agent }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    const { statusCode, statusMessage, headers, rawHeaders } = response;
    expect(Math.abs(Date.parse(headers.date ?? '') - Date.now())).toBeLessThan(60_000);
    const lines = rawHeaders.filter((_, i) => i % 2 === 0).map((name) => `${name}: ${headers[name.toLowerCase()]}`);
    return {
      statusCode,
      statusMessage,
      lines: lines.filter((line) => !/^date/i.test(line)),
      body: await text(response),
    };
  };
  const toLines = (...added: string[]) => ['one: 1', 'two: 2', ...added, 'Connection: keep-alive'];
  const expected = { statusCode: 202, statusMessage: 'Accepted', lines: toLines('content-length: 1'), body: 'e' };
  expect(await call('/')).toEqual(expected);
  const lines = toLines('other: header', 'content-length: 1');
  expect(await call('/?other=1')).toEqual({ ...expected, lines });
  expect(await call('/', 'HEAD')).toEqual({ ...expected, body: '' });
  expect(await call('/?other=1', 'HEAD')).toEqual({ ...expected, lines, body: '' });
  for (const [query, added] of [
    ['', []],
    ['&other=1', ['other: header']],
  ] as const) {
    const wide = { ...expected, lines: toLines(...added, 'content-length: 2'), body: 'é' };
    expect(await call(`/?body=wide${query}`)).toEqual(wide);
  }
  agent.destroy();
  const socket = connect(port, '127.0.0.1');
  socket.write('GET / HTTP/1.0\r\n\r\n');
  const closing =
    /^HTTP\/1\.1 202 Accepted\r\none: 1\r\ntwo: 2\r\ncontent-length: 1\r\nDate: [^\r]*\r\nConnection: close\r\n\r\ne$/;
  expect(await text(socket)).toMatch(closing);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});
