import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, expect, test } from '@jest/globals';
import express, { type Response } from 'express';
import { toHttpClasses } from './fast-express.js';
import { contextOf } from './request-context.js';
import { watchConnections } from './watch-connections.js';

const KB = 1_000;
const close: (() => void)[] = [];
afterEach(() => {
  for (const release of close.splice(0)) release();
});

/** A server whose responses the test ends itself. */
async function serve(limits: Omit<Parameters<typeof watchConnections>[1] & object, 'onEnd'> = {}) {
  const server = createServer(toHttpClasses(express())).listen(0, '127.0.0.1');
  await once(server, 'listening');
  let ended = 0;
  const connections = watchConnections(server, { onEnd: () => ended++, ...limits });
  const waiting: Response[] = [];
  server.on('request', (request, response) => {
    if (connections.take(request, response)) waiting.push(response as Response);
  });
  close.push(() => {
    connections.stop();
    server.close().closeAllConnections();
  });
  const dial = (requests: number, headers = ''): Socket => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {});
    socket.write(`GET / HTTP/1.1\r\nhost: a\r\n${headers}\r\n`.repeat(requests));
    close.push(() => socket.destroy());
    return socket;
  };
  return { waiting, dial, ended: () => ended };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}

test('a connection that holds more than 512 KiB is closed, but never for a single request', async () => {
  const { waiting, dial, ended } = await serve();
  const alone = dial(1);
  const some = dial(3);
  await until(() => waiting.length === 4);
  const hold = (response: Response, bytes: number) => contextOf(response).connection?.hold(contextOf(response), bytes);
  const ofAlone = waiting.filter(({ req }) => req.socket.remotePort === alone.localPort);
  const ofSome = waiting.filter(({ req }) => req.socket.remotePort === some.localPort);
  for (const response of ofAlone) hold(response, 5_000 * KB);
  const closed = once(some, 'close');
  for (const response of ofSome) hold(response, 150 * KB);
  expect(ended()).toBe(0);
  for (const response of ofSome) hold(response, 30 * KB);
  await closed;
  expect([ended(), alone.closed]).toEqual([1, false]);
});

test('an answered request whose answer was read no longer counts', async () => {
  const { waiting, dial, ended } = await serve();
  const socket = dial(100).resume();
  for (let round = 1; round <= 5; round++) {
    await until(() => waiting.length === 100);
    for (const response of waiting.splice(0)) {
      contextOf(response).connection?.hold(contextOf(response), 1 * KB);
      response.end();
    }
    if (round < 5) socket.write('GET / HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(100));
  }
  expect(ended()).toBe(0);
});

test('an answer to a client that has left does not count', async () => {
  const { waiting, dial, ended } = await serve({ maxHeldBytes: 600 * KB });
  for (let i = 0; i < 10; i++) {
    const leaving = dial(1);
    await until(() => waiting.length === 1);
    const [response] = waiting.splice(0) as [Response];
    const left = once(response, 'close');
    leaving.destroy();
    await left;
    contextOf(response).connection?.hold(contextOf(response), 200 * KB);
    response.end();
  }
  dial(5);
  await until(() => waiting.length === 5 || ended() > 0);
  expect(ended()).toBe(0);
});

test('if all connections together use too much memory, the largest are closed and the others served', async () => {
  const { waiting, dial, ended } = await serve({ maxHeldBytes: 600 * KB });
  const partners = Array.from({ length: 20 }, () => dial(1));
  await until(() => waiting.length === 20);
  const ofPartners = [...waiting];
  const FLOODS = 50;
  for (let i = 0; i < FLOODS; i++) dial(10, `x: ${'a'.repeat(5 * KB)}\r\n`); // more than 90 KB each
  const held = () => waiting.filter((it) => !(it.req.socket.destroyed || ofPartners.includes(it))).length;
  await until(() => held() + ended() * 10 >= FLOODS * 10 && held() % 10 === 0);
  expect(held() * 9 * KB).toBeLessThan(600 * KB);
  const answers = partners.map((socket) => once(socket, 'data'));
  for (const response of ofPartners) response.end('good');
  for (const [answer] of await Promise.all(answers)) expect(String(answer)).toMatch(/^HTTP\/1.1 200 .*good$/s);
});

test('a client that does not read is disconnected even if it sends; a client that reads gets everything', async () => {
  const bytes = Buffer.alloc(50_000 * KB);
  const { waiting, dial } = await serve({ idleMs: 2_000, checkIntervalMs: 20 });
  const reader = dial(1);
  const sender = dial(1).pause();
  await until(() => waiting.length === 2);
  const cut = waiting.map(async ({ req: { socket } }) => {
    const { remotePort } = socket;
    await once(socket, 'close');
    return remotePort;
  });
  for (const response of waiting) response.end(bytes);
  const sending = setInterval(() => sender.write('\r\n'), 20); // HTTP allows empty lines between two requests
  close.push(() => clearInterval(sending));
  let read = 0;
  reader.on('data', (part: Buffer) => {
    read += part.length;
  });
  expect(await Promise.race(cut)).toBe(sender.localPort);
  await until(() => read > bytes.length);
});
