import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import express from 'express';
import { takeBody, toHttpClasses } from './fast-express.js';

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
