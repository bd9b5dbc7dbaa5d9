import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { BACKENDS } from '@opm/testkit';
import fc from 'fast-check';
import { type Answer, checkDocumented, parseAnswers } from './answers.js';
import { Connections } from './connections.js';
import { askInTurn } from './in-turn.js';
import { DESCRIPTION, type Input, input, toSubjects, toWire } from './inputs.js';
import { isFuzzing, RUNS } from './runs.js';
import { type Project, Stack } from './stack.js';

/*
 * Each request goes to four sides: to an ingress on each queue store, and there once as it is, which may take the fast path,
 * and once with a `?` behind its path, which takes the router. The four answers must be the same, byte for byte.
 *
 * A run has a new project on each side, so a run that fails does not need the runs before it, and fast-check can shrink it. A
 * run also takes less than a minute. A minute after an erasure, the worker's pace would decide whether the customer's next
 * entry is a 201 or a 202 (ARCHITECTURE.md, "Look-up").
 *
 * A request waits for the earlier ones with the same customer or idempotency key, and for nothing else.
 */

type Side = { name: string; stack: Stack; suffix: '' | '?'; connections: Connections };

/** Requests of one run. The more there are, the more go at once, which costs less per request. */
const MAX_INPUTS = isFuzzing ? 1000 : 60;
/** Of each side. */
const CONNECTIONS = 32;
/** Many small jobs cost more than a few large ones. */
const LARGE_CHUNKS = { CHUNKS_IN_FLIGHT: '1' };
const MAX_OVERLOADED_SHARE = 0.01;

let stacks: Stack[];
let sides: Side[];
/** Of each side, for the next run. */
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

test('every request is answered alike by the fast path and by the router, and on both queue stores', async () => {
  const counts = { inputs: 0, answers: 0, overloads: 0 };
  const property = fc.asyncProperty(fc.array(input, { maxLength: MAX_INPUTS, size: 'max' }), async (drawn) => {
    const answers = await sendToAll(drawn);
    const overloads = answers.flat().filter(isOverload).length;
    counts.inputs += drawn.length;
    counts.answers += answers.flat().length;
    counts.overloads += overloads;
    const mayDiffer = overloads > 0; // then the sides may know different customers
    for (const [i, request] of drawn.entries()) {
      const ofSides = answers.map((side) => side[i] ?? '');
      expectAlike(request, ofSides, mayDiffer);
    }
  });
  await fc.assert(property, isFuzzing ? RUNS : { numRuns: 10 }); // without a time limit, which a slow machine would reach
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
    // The next run must not take an answer of this one for its own.
    await Promise.allSettled(ofSides);
    for (const { connections } of sides) connections.destroy();
    throw error;
  }
}

/** All answers are documented, and the same in what must be the same. */
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

/** Leaves out the date and the id of a request that brought none. What is read of a customer depends on the worker's pace. */
function toComparable(request: Input, answer: string): string {
  const { method, path, isChunked } = request;
  const isCustomer = ['GET', 'HEAD'].includes(method) && path.startsWith('/entry/');
  const anyTime = withoutTime(answer);
  // Whether the connection goes on depends on how much of the body has come before the answer.
  const text = isChunked ? anyTime.replace(/\r\nconnection: [^\r]*/i, '') : anyTime;
  return isCustomer ? text.replace(/^(HTTP\/1\.1 (?:200|404)).*/ms, '$1') : text;
}
const withoutTime = (answer: string) => answer.replace(/\r\ndate: [^\r]*/i, '').replace(NEW_REQUEST_ID, '$1new');
const NEW_REQUEST_ID = /(\r\nx-request-id: )[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=\r\n)/;

const isOverload = (answer: string) => /^HTTP\/1\.1 (503 |207 .*"statusCode":503)/ms.test(answer);

/** Answers that are documented, with what they answer. */
const documented = new Set<string>();
const MAX_DOCUMENTED = 10_000;

/** Most answers come again and again. */
function expectDocumentedOnce(request: Input, text: string): void {
  const { method, path } = request;
  const key = `${method} ${path.replace(/^\/entry\/[^/]+$/, '/entry/{id}')} ${withoutTime(text)}`;
  if (documented.has(key)) return;
  expectDocumented(request, text);
  if (documented.size >= MAX_DOCUMENTED) documented.clear();
  documented.add(key);
}

/** There is one answer, whole and documented. A 5xx is an overload. */
function expectDocumented({ method, path }: Input, text: string): void {
  const { answers, rest } = parseAnswers(text, { isHead: method === 'HEAD' });
  expect({ answers: answers.length, rest }).toEqual({ answers: 1, rest: '' });
  const answer = answers[0] as Answer;
  if (answer.status >= 500) expect(answer.status).toBe(503);
  if (answer.status >= 400 || !DESCRIPTION.test(path)) {
    checkDocumented(answer, { method, path: path.replace('http://test', '') });
  }
}
