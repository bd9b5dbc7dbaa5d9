import { EventEmitter, once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { expect, test } from '@jest/globals';
import express from 'express';
import { takeBody } from './fast-express.js';
import { serveIngress } from './server.js';

const NEVER_MS = 600_000;

/** Starts a server whose requests the test answers itself, by path. Its shutdown lets requests arrive for a second. */
async function serve() {
  const arrivals = new EventEmitter();
  const nothing = () => {};
  const server = await serveIngress({
    app: express(),
    handle(request, response) {
      takeBody(request, { onPart: nothing, onEnd: nothing, onRefuse: nothing, onAbort: nothing });
      arrivals.emit(request.url, response);
    },
    host: '127.0.0.1',
    port: 0,
    maxConnections: 10,
    budget: { headersMs: NEVER_MS, requestMs: NEVER_MS },
    closeDelayMs: 1_000,
  });
  const socket = connect(server.port, '127.0.0.1');
  await once(socket, 'connect');
  return { arrivals, socket, close: server.close };
}

const CUT_OFF = 'POST /cut-off HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf';

test('a request that its client cuts off during the shutdown does not delay it', async () => {
  const { arrivals, socket, close } = await serve();
  const closed = close();
  const arrived = once(arrivals, '/cut-off');
  socket.resume().write(CUT_OFF);
  await arrived;
  socket.end();
  await Promise.all([once(socket, 'close'), closed]);
});

test.each([
  ['during', true],
  ['before', false],
])(
  'a request that arrived %s the shutdown is answered, although its client cuts off the next one',
  async (_, isLate) => {
    const { arrivals, socket, close } = await serve();
    const early = isLate ? close() : undefined;
    const arrived = once(arrivals, '/whole');
    const answer = text(socket);
    socket.write('GET /whole HTTP/1.1\r\nhost: a\r\n\r\n');
    const [response] = (await arrived) as [ServerResponse];
    const closed = early ?? close();
    const ended = once(response.req.socket, 'end');
    socket.end(CUT_OFF);
    await ended;
    response.end('answered');
    expect(await answer).toMatch(/^HTTP\/1.1 200 .*answered/s);
    await closed;
  },
);
