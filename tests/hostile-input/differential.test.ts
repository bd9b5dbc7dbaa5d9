import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { BACKENDS } from '@opm/testkit';
import fc from 'fast-check';
import { type Answer, checkDocumented, parseAnswers } from './answers.js';
import { Connections } from './connections.js';
import { askInTurn } from './in-turn.js';
import { DESCRIPTION, type Input, input, toSubjects, toWire } from './inputs.js';
import { explore, isFuzzing } from './runs.js';
import { type Project, Stack } from './stack.js';

/*
 * Sends each request to four sides: to an ingress on each queue store, once unchanged, which may take the fast path,
 * and once with a `?` after the path, which takes the router. The four answers must be identical, byte for byte.
 *
 * Each run has new projects, so a failing run does not depend on earlier runs and fast-check can shrink it. A run takes
 * less than a minute: a minute after an erasure, the worker's speed would decide whether the customer's next entry is a
 * 201 or a 202 (docs/decisions.md, "201 or 202").
 *
 * A request waits only for earlier ones with the same customer or idempotency key.
 */

type Side = { name: string; stack: Stack; suffix: '' | '?'; connections: Connections };

/** Requests per run. Larger runs send more requests at once, which costs less per request. */
const MAX_INPUTS = isFuzzing ? 1000 : 60;
/** Connections per side. */
const CONNECTIONS = 32;
/** One chunk in flight makes chunks large: many small jobs cost more than a few large ones. */
const LARGE_CHUNKS = { CHUNKS_IN_FLIGHT: '1' };
const MAX_OVERLOADED_SHARE = 0.01;

let stacks: Stack[];
let sides: Side[];
/** The projects of the next run, one per side. */
let projects: Promise<Project[]> | undefined;

beforeAll(async () => {
  stacks = await Promise.all(
    BACKENDS.map(async ([, createBackend]) => Stack.start(await createBackend(), LARGE_CHUNKS)),
  );
  sides = stacks.flatMap((stack, i) =>
    (['', '?'] as const).map((suffix) => {
      const name = `${BACKENDS[i]?.[0]}, ${suffix === '' ? 'fast path' : 'router'}`;
      return { name, stack, suffix, connections: new Connections(stack.port, CONNECTIONS) };
    }),
  );
});
afterAll(async () => {
  await projects;
  for (const { connections } of sides) connections.destroy();
  for (const stack of stacks) {
    await stack.expectUnharmed();
    await stack.stop();
  }
});

test('the fast path and the router give identical answers on both queue stores', async () => {
  const counts = { inputs: 0, answers: 0, overloads: 0 };
  const property = fc.asyncProperty(fc.array(input, { maxLength: MAX_INPUTS, size: 'max' }), async (drawn) => {
    const answers = await sendToAll(drawn);
    const overloads = answers.flat().filter(isOverload).length;
    counts.inputs += drawn.length;
    counts.answers += answers.flat().length;
    counts.overloads += overloads;
    const mayDiffer = overloads > 0; // After an overload the sides may know different customers.
    for (const [i, request] of drawn.entries()) {
      const ofSides = answers.map((side) => side[i] ?? '');
      expectAlike(request, ofSides, mayDiffer);
    }
  });
  await explore(property, 10);
  const { inputs, answers, overloads } = counts;
  if (isFuzzing) console.log(`${inputs} inputs, ${answers} answers, ${overloads} overloads, 0 differences`);
  expect(overloads).toBeLessThanOrEqual(answers * MAX_OVERLOADED_SHARE);
});

const createProjects = () => Promise.all(sides.map(({ stack }) => stack.createProject()));

/** @returns the answers of each side, in the order of the requests */
async function sendToAll(requests: Input[]): Promise<string[][]> {
  const ofRun = await (projects ?? createProjects());
  projects = createProjects();
  const items = requests.map((item) => ({ item, subjects: toSubjects(item) }));
  const ofSides = sides.map(({ suffix, connections }, i) => {
    const { apiKey } = ofRun[i] as Project;
    return askInTurn(items, (request) => connections.ask(toWire(request, { apiKey, suffix })));
  });
  try {
    const answers = await Promise.all(ofSides);
    for (const { connections } of sides) connections.expectSilence();
    return answers;
  } catch (error) {
    // The next run must not get an answer of this one.
    await Promise.allSettled(ofSides);
    for (const { connections } of sides) connections.destroy();
    throw error;
  }
}

/** Expects documented answers that are identical in all comparable parts. */
function expectAlike(request: Input, answers: string[], mayDiffer: boolean): void {
  const comparable = answers.map((answer) => toComparable(request, answer));
  const different = answers.filter((_, i) => comparable.indexOf(comparable[i] as string) === i);
  for (const answer of different) expectDocumentedOnce(request, answer);
  if (mayDiffer || different.length === 1) return;
  const bySide = (texts: string[]) => ({
    request,
    ...Object.fromEntries(sides.map(({ name }, i) => [name, texts[i]])),
  });
  expect(bySide(comparable)).toEqual(bySide(comparable.map(() => comparable[0] as string)));
}

/**
 * Removes the date, receipts and a generated request id. For a customer that is read, only the status line is
 * comparable, because the rest depends on the worker's speed.
 */
function toComparable(request: Input, answer: string): string {
  const { method, path, isChunked } = request;
  const isCustomer = ['GET', 'HEAD'].includes(method) && path.startsWith('/entry/');
  const anyTime = withoutTime(answer);
  // Whether the connection stays open depends on how much of the body arrives before the answer.
  const text = isChunked ? anyTime.replace(/\r\nconnection: [^\r]*/i, '') : anyTime;
  return isCustomer ? text.replace(/^(HTTP\/1\.1 (?:200|404)).*/ms, '$1') : text;
}
/** Receipts contain the time. */
const withoutTime = (answer: string) =>
  answer
    .replace(/\r\ndate: [^\r]*/i, '')
    .replace(NEW_REQUEST_ID, '$1new')
    .replace(/(?<=\r\nreceipt: )\w+/i, '…')
    .replace(/(?<="receipts":)\[.*\]/, (receipts) => receipts.replaceAll(/"\w+"/g, '"…"'));
const NEW_REQUEST_ID = /(\r\nx-request-id: )[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=\r\n)/;

const isOverload = (answer: string) => /^HTTP\/1\.1 (503 |207 .*"statusCode":503)/ms.test(answer);

/** Checked answers with their requests. */
const documented = new Set<string>();
const MAX_DOCUMENTED = 10_000;

/** Checks each distinct answer once, because most answers repeat. */
function expectDocumentedOnce(request: Input, text: string): void {
  const { method, path } = request;
  const key = `${method} ${path.replace(/^\/entry\/[^/]+$/, '/entry/{id}')} ${withoutTime(text)}`;
  if (documented.has(key)) return;
  expectDocumented(request, text);
  if (documented.size >= MAX_DOCUMENTED) documented.clear();
  documented.add(key);
}

/** Expects exactly one complete, documented answer. The only 5xx is 503, for overload. */
function expectDocumented({ method, path }: Input, text: string): void {
  const { answers, rest } = parseAnswers(text, { isHead: method === 'HEAD' });
  expect({ answers: answers.length, rest }).toEqual({ answers: 1, rest: '' });
  const answer = answers[0] as Answer;
  if (answer.status >= 500) expect(answer.status).toBe(503);
  if (answer.status >= 400 || !DESCRIPTION.test(path)) {
    checkDocumented(answer, { method, path: path.replace('http://test', '') });
  }
}
