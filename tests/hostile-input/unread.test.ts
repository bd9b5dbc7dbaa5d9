import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createBackend } from '@opm/testkit';
import { isAccepted } from './answers.js';
import { toEntryRequest, toRequest } from './requests.js';
import { type Project, Stack } from './stack.js';
import { closing, dial } from './talk.js';

/** Heap limit of the ingress. Unbounded, the connections of one test would take 70 MB and more, which does not fit. */
const HEAP_MB = 80;
const CONNECTIONS = 200;

let stack: Stack;
let partner: Project;
let flooding: Project;
let viewer: string;
beforeAll(async () => {
  const backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  stack = await Stack.start(backend, { NODE_OPTIONS: `--max-old-space-size=${HEAP_MB}` });
  [partner, flooding] = [await stack.createProject(), await stack.createProject()];
  const page = await (await fetch(`${stack.ingress.url}/docs`)).text();
  viewer = /\/docs\/viewer\.\w+\.js/.exec(page)?.[0] as string;
});
afterAll(async () => {
  await stack.expectUnharmed();
  await stack.stop();
});

const big = () => toRequest(`GET ${viewer}`, []);

test.each<[what: string, toStream: () => string]>([
  ['headers of 16 KB', () => big() + toRequest('GET /nowhere', [`x: ${'a'.repeat(16_000)}`]).repeat(20)],
  ['many requests', () => big() + toRequest('GET /nowhere', []).repeat(90)],
  ['entries', () => big() + toEntryRequest(flooding.apiKey, 'a').repeat(90)],
])('clients that pipeline %s and never read do not keep others from being served', async (_, toStream) => {
  const stream = Buffer.from(toStream());
  const sockets = Array.from({ length: CONNECTIONS }, () => {
    const socket = dial(stack.port).pause();
    socket.write(stream);
    return socket;
  });
  // On connections that are opened after the others.
  for (let i = 0; i < 20; i++) {
    const [answer] = await stack.talk([toEntryRequest(partner.apiKey, `${i}`)], { answers: 1 });
    expect(answer && isAccepted(answer)).toBe(true);
  }
  const ends = sockets.map((socket) => closing(socket.resume()));
  for (const socket of sockets) socket.destroy();
  await Promise.all(ends);
});
