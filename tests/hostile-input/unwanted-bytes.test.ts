import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { LIMITS } from '@opm/contract';
import { createBackend } from '@opm/testkit';
import { type Answer, expectDocumented, isAccepted, parseAnswers } from './answers.js';
import { toEntryRequest, toRequest } from './requests.js';
import { type Project, Stack } from './stack.js';
import { closing, dial, readAll } from './talk.js';

const MIB = 2 ** 20;
const CHUNKED = 'transfer-encoding: chunked';
const NDJSON = 'content-type: application/x-ndjson';
const END = '0\r\n\r\n';

let stack: Stack;
let project: Project;
let key: string;
beforeAll(async () => {
  stack = await Stack.start(await createBackend(process.env.OPM_TEST_REDIS_URL));
  project = await stack.createProject();
  key = `x-api-key: ${project.apiKey}`;
});
afterAll(async () => {
  await stack.expectUnharmed();
  await stack.stop();
});

const toChunks = (text: string, bytes = 1) =>
  (text.match(new RegExp(`[^]{1,${bytes}}`, 'g')) ?? [])
    .map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`)
    .join('');
const toEntry = (id: string, bytes: number) => {
  const entry = { customerId: id, customerPhone: '1', other: '' };
  return JSON.stringify({ ...entry, other: 'x'.repeat(bytes - JSON.stringify(entry).length) });
};

function expectEnd(answer: Answer | undefined, status: number): void {
  expect([answer?.status, answer?.headers.get('connection')]).toEqual([status, 'close']);
}

describe('with small HTTP chunks', () => {
  const { smallChunks, smallChunkBytes } = LIMITS;
  const MESSAGE = `body must not have more than ${smallChunks} HTTP chunks of fewer than ${smallChunkBytes} bytes`;

  test('each request may have the maximum of small chunks, and any number of larger ones', async () => {
    const post = (body: string) => toRequest('POST /entry', [key, CHUNKED], body + END);
    const bytewise = post(toChunks(toEntry('a', smallChunks)));
    // One after another on one connection, each after the previous answer.
    const socket = dial(stack.port);
    for (let i = 0; i < 3; i++) {
      socket.write(bytewise);
      const [answer] = await once(socket, 'data');
      expect(answer).toMatch(/^HTTP\/1.1 20[12] /);
    }
    socket.destroy();
    const larger = post(toChunks(toEntry('b', LIMITS.entryBytes), smallChunkBytes));
    const lines = toChunks(`${toEntry('c', 63)}\n`.repeat(LIMITS.batchEntries), 64);
    const batch = toRequest('POST /entries', [key, CHUNKED, NDJSON], lines + END);
    const answers = await stack.talk([larger, batch], { answers: 2 });
    expect(answers.map(({ status }) => status)).toEqual([201, 207]);
  });

  test.each([
    ['an entry', 'POST /entry', []],
    ['an array', 'POST /entries', []],
    ['lines', 'POST /entries', [NDJSON]],
    ['lines with an idempotency key', 'POST /entries', [NDJSON, 'idempotency-key: small']],
  ])('one more gives a 400 with the reason and ends the connection: %s', async (_, line, headers) => {
    const body = toChunks(' '.repeat(smallChunks + 1));
    const answers = await stack.talk([toRequest(line, [key, CHUNKED, ...headers], body)]);
    expect(answers).toHaveLength(1);
    expectEnd(answers[0], 400);
    expect(JSON.parse(answers[0]?.text ?? '').message).toBe(MESSAGE);
  });

  test('pipelined requests share the limit', async () => {
    const post = toRequest('POST /entry', [key, CHUNKED], toChunks('x'.repeat(smallChunks - 1)) + END);
    const answers = await stack.talk([post.repeat(10)]);
    expect(answers.map(({ status }) => status)).toEqual([400, 400]);
    expect(answers.map(({ text }) => JSON.parse(text).message)).toEqual(['body must be valid JSON', MESSAGE]);
  });

  test('without a key, one request gives a 401 and ends the connection', async () => {
    const answers = await stack.talk([
      toRequest('POST /entry', [CHUNKED], toChunks('x'.repeat(smallChunks + 1)) + END).repeat(10),
    ]);
    expect(answers).toHaveLength(1);
    expectEnd(answers[0], 401);
  });

  test('many connections with too many small chunks all get a 400, and take no memory', async () => {
    const request = Buffer.from(toRequest('POST /entry', [key, CHUNKED], toChunks('x'.repeat(16_000))));
    const all = Array.from({ length: 250 }, () => {
      const socket = dial(stack.port);
      socket.write(request);
      return readAll(socket);
    });
    for (const text of await Promise.all(all)) expectEnd(parseAnswers(text).answers[0], 400);
    await stack.expectUnharmed();
  });
});

describe('if a body is refused', () => {
  /**
   * Sends until the connection is closed.
   * @returns the answer, and how many bytes the server or the kernel has accepted
   */
  async function flood(beginning: string, piece: Buffer): Promise<[answer: Answer | undefined, bytes: number]> {
    const socket = dial(stack.port, { allowHalfOpen: true });
    const text = readAll(socket);
    const send = () => {
      while (socket.writable && socket.writableLength < 4 * MIB) socket.write(piece);
    };
    socket.on('drain', send).write(beginning);
    send();
    const { answers } = parseAnswers(await text);
    expect(answers).toHaveLength(1);
    for (const answer of answers) expectDocumented(answer);
    return [answers[0], socket.bytesWritten - socket.writableLength];
  }

  /** More than kernels buffer between two processes. */
  const MAX_TAKEN = 64 * MIB;
  const GIB = `content-length: ${2 ** 30}`;

  test('only a little more is read, and the connection ends', async () => {
    const bytes = Buffer.alloc(MIB, 'x');
    const chunk = Buffer.concat([Buffer.from('100000\r\n'), bytes, Buffer.from('\r\n')]);
    const floods = await Promise.all([
      flood(toRequest('POST /entry', [key, GIB]), bytes),
      flood(toRequest('POST /entries', [key, GIB]), bytes),
      flood(toRequest('POST /entries', [key, GIB, NDJSON]), bytes),
      flood(toRequest('POST /entry', [key, CHUNKED]), chunk),
      flood(toRequest('POST /entries', [key, CHUNKED]), chunk),
      flood(toRequest('POST /entries', [key, CHUNKED, NDJSON]), chunk),
      flood(toRequest('POST /entries', [GIB]), bytes),
      flood(toRequest('POST /entries', [CHUNKED]), chunk),
      flood(toRequest('GET /ping', [key, GIB]), bytes),
      flood(toRequest('GET /ping', [key, CHUNKED]), chunk),
    ]);
    const statuses = [413, 413, 413, 413, 413, 413, 401, 401, 200, 200];
    for (const [i, [answer, taken]] of floods.entries()) {
      expectEnd(answer, statuses[i] as number);
      expect(taken).toBeLessThan(MAX_TAKEN);
    }
  });

  test('its declared length takes tokens although it is not read', async () => {
    const limited = await stack.createProject();
    await stack.store.projects.setLimit(limited.projectId, { rate: 1, burst: 5_000 });
    const [answer] = await stack.talk([toRequest('POST /entries', [`x-api-key: ${limited.apiKey}`, GIB])], {
      answers: 1,
    });
    const left = Number(/r=(\d+)/.exec(answer?.headers.get('ratelimit') ?? '')?.[1]);
    expect(left).toBeLessThan(5_000 - 2_048 + 100); // One token is added per second.
  });

  /** Reads nothing until everything is sent. */
  async function sendAll(socket: Socket, bytes: string): Promise<void> {
    socket.pause();
    await new Promise<void>((resolve, reject) => {
      socket.write(bytes, 'latin1', (error) => (error ? reject(error) : resolve()));
    });
    socket.resume();
  }

  const tooLarge = 'x'.repeat(1.5 * MIB);
  const length = `content-length: ${tooLarge.length}`;
  test.each<[what: string, line: string, headers: string[], withKey: boolean, status: number]>([
    ['an entry', 'POST /entry', [length], true, 413],
    ['an entry in chunks', 'POST /entry', [CHUNKED], true, 413],
    ['an array', 'POST /entries', [length], true, 413],
    ['an array in chunks', 'POST /entries', [CHUNKED], true, 413],
    ['lines', 'POST /entries', [length, NDJSON], true, 413],
    ['lines in chunks', 'POST /entries', [CHUNKED, NDJSON], true, 413],
    ['without a key', 'POST /entries', [length], false, 401],
    ['without a key, in chunks', 'POST /entries', [CHUNKED], false, 401],
  ])(
    'a client that sends slightly too much before it reads still gets the answer: %s',
    async (_, line, headers, withKey, status) => {
      const body = headers.includes(CHUNKED) ? toChunks(tooLarge, MIB / 2) + END : tooLarge;
      const socket = dial(stack.port);
      let text = '';
      socket.on('data', (part: string) => {
        text += part;
      });
      await sendAll(socket, toRequest(line, withKey ? [key, ...headers] : headers, body));
      while (parseAnswers(text).answers.length === 0) await Promise.race([once(socket, 'data'), closing(socket)]);
      const [answer] = parseAnswers(text).answers;
      expect(answer?.status).toBe(status);
      if (answer?.headers.get('connection') === 'close') {
        if (!socket.closed) await closing(socket);
        return;
      }
      socket.write(toEntryRequest(project.apiKey, 'next'));
      while (parseAnswers(text).answers.length === 1) await once(socket, 'data');
      expect(parseAnswers(text).answers.slice(1).map(isAccepted)).toEqual([true]);
      socket.destroy();
    },
  );

  test('a small complete body in chunks leaves the connection open', async () => {
    const body = toChunks(toEntry('refused', 100), 50) + END;
    const refused = [
      toRequest('POST /entry', [CHUNKED], body),
      toRequest('POST /entry', [key, CHUNKED, 'content-encoding: br'], body),
      toRequest('POST /entry', [key, CHUNKED, 'content-encoding: gzip'], body),
    ];
    const answers = await stack.talk([...refused, toEntryRequest(project.apiKey, 'behind')], { answers: 4 });
    expect(answers.map(({ status }) => status)).toEqual([401, 415, 400, 201]);
  });
});
