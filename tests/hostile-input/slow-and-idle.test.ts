import { execSync } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createBackend, median, startApp, type TestApp, waitFor } from '@opm/testkit';
import { toRequest } from './requests.js';
import { isFuzzing } from './runs.js';
import { type Project, Stack } from './stack.js';
import { closing, dial, readAll } from './talk.js';

const LIMIT = String(execSync('ulimit -n')).trim();
/** File descriptors for both sides; the others are for files and the stores. `npm test` uses fewer. */
const DESCRIPTORS = LIMIT === 'unlimited' ? Number.POSITIVE_INFINITY : Number(LIMIT) - 500;
const CONNECTIONS = Math.min(isFuzzing ? 10_000 : 1_000, DESCRIPTORS);

/** Connections to open at once: fewer than the operating system queues for a busy process. */
const BURST = 400;

/** Far more than 10 s on a busy machine, and far less than Node.js would wait by default. */
const MAX_TRICKLE_MS = 200_000;
/** Largest median of the pings during the attack, unless 20 times the median before it is more. */
const MAX_WAIT_MS = 3_000;

let stack: Stack;
/** An ingress with the limits of production. */
let impatient: TestApp;
let impatientPort: number;
let project: Project;
let ping: string;
beforeAll(async () => {
  const backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  stack = await Stack.start(backend, { MAX_CONNECTIONS: `${CONNECTIONS}` });
  const env = { ...backend.env, MAX_CONNECTIONS: `${CONNECTIONS}`, ANSWER_TIMEOUT_MS: '1000' };
  impatient = await startApp('ingress', env);
  impatientPort = Number(new URL(impatient.url).port);
  project = await stack.createProject();
  ping = toRequest('GET /ping', [`x-api-key: ${project.apiKey}`]);
  await waitFor(async () => (await pingImpatient()) === 200, { description: 'the key to be known' });
});
afterAll(async () => {
  await stack.expectUnharmed();
  expect(await impatient.stop()).toEqual({ code: 0, signal: null });
  await stack.stop();
});

async function pingImpatient(): Promise<number> {
  const response = await fetch(`${impatient.url}/ping`, { headers: { 'x-api-key': project.apiKey } });
  await response.text();
  return response.status;
}

async function expectPong(socket: Socket): Promise<void> {
  socket.write(ping);
  const [answer] = await once(socket, 'data');
  expect(answer).toMatch(/^HTTP\/1.1 200 /);
}

// Must be the first test of this file, because it counts all connections.
test('the maximum of idle connections does not affect a partner, and one more is refused', async () => {
  const partner = dial(stack.port);
  await expectPong(partner);
  const idle: Socket[] = [];
  while (idle.length < CONNECTIONS - 1) {
    const some = Array.from({ length: Math.min(BURST, CONNECTIONS - 1 - idle.length) }, () => dial(stack.port));
    await Promise.all(some.map(expectPong));
    idle.push(...some);
  }
  await expectPong(partner);

  const refused = dial(stack.port);
  refused.write(ping);
  expect(await readAll(refused)).toBe('');
  expect(idle.filter((socket) => socket.closed)).toEqual([]);

  const all = [partner, ...idle];
  const ends = Promise.all(all.map((socket) => closing(socket.resume())));
  // The ingress closes idle connections after 65 s; `npm test` does not wait for that.
  if (!isFuzzing) for (const socket of all) socket.destroy();
  await ends;
});

test('silent connections get a 408 and are closed', async () => {
  const silent: Promise<string>[] = [];
  while (silent.length < CONNECTIONS / 2) {
    for (let i = 0; i < 50; i++) silent.push(readAll(dial(impatientPort)));
    const last = dial(impatientPort);
    await expectPong(last); // Then the connections before it have been accepted too.
    last.destroy();
  }
  const answers = await Promise.all(silent);
  expect(new Set(answers.map((text) => text.slice(0, 12)))).toEqual(new Set(['HTTP/1.1 408']));
});

describe('a slow sender is disconnected', () => {
  /**
   * Sends the beginning, then the piece repeatedly until the connection is closed.
   * @returns what was received, and the time until the connection was closed, in ms
   */
  async function trickle(beginning: string, piece: string, intervalMs: number): Promise<[text: string, ms: number]> {
    const start = performance.now();
    const socket = dial(impatientPort, { allowHalfOpen: true });
    const text = readAll(socket);
    socket.write(beginning);
    while (!socket.closed) {
      const isFull = socket.writable && !socket.write(piece);
      if (isFull) await Promise.race([once(socket, 'drain').catch(() => {}), text]); // An error closes the socket.
      await Promise.race([delay(intervalMs), text]);
    }
    return [await text, performance.now() - start];
  }

  /**
   * Sends the last byte of an entry after the ingress has ended the connection.
   * @returns what was received
   */
  async function finishLate(body: string): Promise<string> {
    const socket = dial(impatientPort, { allowHalfOpen: true });
    const text = readAll(socket);
    const headers = [`x-api-key: ${project.apiKey}`, `content-length: ${body.length}`];
    socket.write(toRequest('POST /entry', headers) + body.slice(0, -1));
    await once(socket, 'end');
    socket.end(body.slice(-1));
    return text;
  }

  test('after 5 s for headers and 10 s for a body, while others are served, and later bytes are ignored', async () => {
    const key = `x-api-key: ${project.apiKey}`;
    const post = (...headers: string[]) => toRequest('POST /entry', [key, ...headers]);
    const measurePing = async () => {
      const start = performance.now();
      expect(await pingImpatient()).toBe(200);
      return performance.now() - start;
    };
    const before: number[] = [];
    while (before.length < 50) before.push(await measurePing());
    let isCut = false;
    const late = finishLate(JSON.stringify({ customerId: 'late', customerPhone: '1' }));
    const trickles = Promise.all([
      trickle('', 'a', 100),
      trickle('GET /ping HTTP/1.1\r\nx: ', 'a', 100),
      trickle('GET /ping HTTP/1.1\r\n', 'a: b\r\n', 500),
      trickle(post('content-length: 1000'), ' ', 100),
      trickle(post('transfer-encoding: chunked'), '1\r\n \r\n', 100),
      trickle(post('transfer-encoding: chunked'), '1;', 1_000),
      trickle(post('content-length: 9007199254740991'), 'x'.repeat(65_536), 10),
      trickle(post('transfer-encoding: chunked'), `10000\r\n${'x'.repeat(65_536)}\r\n`, 10),
    ]).finally(() => {
      isCut = true;
    });
    const waits: number[] = [];
    while (!isCut) {
      waits.push(await measurePing());
      await delay(20);
    }
    for (const [text, ms] of await trickles) {
      expect(text.match(/HTTP\/1.1 \d+/g)).toHaveLength(1);
      expect(text).toMatch(/^HTTP\/1.1 (400|408|413) /);
      expect(ms).toBeLessThan(MAX_TRICKLE_MS);
    }
    expect(await late).toMatch(/^HTTP\/1.1 408 /);
    expect(await impatient.readMetric('opm_chunk_entries_sum')).toBe(0);
    expect(median(waits)).toBeLessThan(Math.max(MAX_WAIT_MS, 20 * median(before)));
  });
});
