import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, test } from '@jest/globals';
import express from 'express';
import { takeBody } from './fast-express.js';
import { serveIngress } from './server.js';

const NEVER_MS = 600_000;

test('a request that its client cuts off during the shutdown does not delay it', async () => {
  let arrive: (method: string) => void;
  const arrived = new Promise<string>((resolve) => {
    arrive = resolve;
  });
  const nothing = () => {};
  const server = await serveIngress({
    app: express(),
    handle(request) {
      takeBody(request, { onPart: nothing, onEnd: nothing, onRefuse: nothing, onAbort: nothing });
      arrive(request.method);
    },
    host: '127.0.0.1',
    port: 0,
    maxConnections: 10,
    budget: { headersMs: NEVER_MS, requestMs: NEVER_MS },
    closeDelayMs: 1_000, // in which the request arrives
  });
  const socket = connect(server.port, '127.0.0.1').resume();
  await once(socket, 'connect');
  const closed = server.close();
  socket.write('POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf');
  expect(await arrived).toBe('POST');
  socket.end();
  await Promise.all([once(socket, 'close'), closed]);
});
