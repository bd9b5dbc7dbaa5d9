import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { BACKENDS } from '@opm/testkit';
import fc from 'fast-check';
import { type Answer, checkDocumented, parseAnswers } from './answers.js';
import { Connections } from './connections.js';
import { type Input, input, toPieces, toSteps } from './inputs.js';
import { isFuzzing, RUNS } from './runs.js';
import { Stack } from './stack.js';

/*
 * Each request goes to four sides: to an ingress on each queue store, and there once as it is, which may take the fast path,
 * and once with a `?` behind its path, which takes the router. The four answers must be the same, byte for byte.
 *
 * A run has a new project on each side, so a run that fails does not need the runs before it, and fast-check can shrink it. A
 * run also takes less than a minute. A minute after an erasure, the worker's pace would decide whether the customer's next
 * entry is a 201 or a 202 (ARCHITECTURE.md, "Look-up").
 *
 * A run sends its requests in steps. The requests of a step go at once, because none of them depends on another.
 */

type Side = { name: string; stack: Stack; suffix: '' | '?'; connections: Connections };

/** Requests of one run. The more there are, the more go at once, which costs less per request. */
const MAX_INPUTS = isFuzzing ? 400 : 60;
const MAX_AT_ONCE = 64;
const MAX_OVERLOADED_SHARE = 0.01;

let stacks: Stack[];
let sides: Side[];

beforeAll(async () => {
  stacks = await Promise.all(BACKENDS.map(async ([, createBackend]) => Stack.start(await createBackend())));
  sides = stacks.flatMap((stack, i) =>
    (['', '?'] as const).map((suffix) => {
      const name = `${BACKENDS[i]?.[0]}, ${suffix === '' ? 'fast path' : 'router'}`;
      return { name, stack, suffix, connections: new Connections(stack.port, MAX_AT_ONCE) };
    }),
  );
});
afterAll(async () => {
  for (const { connections } of sides) connections.destroy();
  for (const stack of stacks) {
    await stack.expectUnharmed();
    await stack.stop();
  }
});

test('every request is answered alike by the fast path and by the router, and on both queue stores', async () => {
  const counts = { inputs: 0, answers: 0, overloads: 0 };
  const property = fc.asyncProperty(fc.array(input, { maxLength: MAX_INPUTS, size: 'max' }), async (drawn) => {
    const steps = toSteps(drawn, MAX_AT_ONCE);
    const answers = await sendToAll(steps);
    const overloads = answers.flat().filter(isOverload).length;
    counts.inputs += drawn.length;
    counts.answers += answers.flat().length;
    counts.overloads += overloads;
    const mayDiffer = overloads > 0; // then the sides may know different customers
    for (const [i, request] of steps.flat().entries()) {
      const ofSides = answers.map((side) => side[i] ?? '');
      expectAlike(request, ofSides, mayDiffer);
    }
  });
  await fc.assert(property, isFuzzing ? RUNS : { numRuns: 10 }); // without a time limit, which a slow machine would reach
  const { inputs, answers, overloads } = counts;
  if (isFuzzing) console.log(`${inputs} inputs, ${answers} answers, ${overloads} overloads, 0 differences`);
  expect(overloads).toBeLessThanOrEqual(answers * MAX_OVERLOADED_SHARE);
});

async function sendToAll(steps: Input[][]): Promise<string[][]> {
  const ofSides = sides.map((side) => sendSteps(steps, side));
  try {
    return await Promise.all(ofSides);
  } catch (error) {
    // The next run must not take an answer of this one for its own.
    await Promise.allSettled(ofSides);
    for (const { connections } of sides) connections.destroy();
    throw error;
  }
}

/** @returns the answers in the order of the requests */
async function sendSteps(steps: Input[][], { stack, suffix, connections }: Side): Promise<string[]> {
  const { apiKey } = await stack.createProject();
  const answers: string[] = [];
  for (const step of steps) {
    const asked = step.map((request) =>
      connections.ask(toPieces(request, { apiKey, suffix }), { isHead: request.method === 'HEAD' }),
    );
    answers.push(...(await Promise.all(asked)));
  }
  connections.expectSilence();
  return answers;
}

/** All answers are documented, and the same in what must be the same. */
function expectAlike(request: Input, answers: string[], mayDiffer: boolean): void {
  const comparable = answers.map((answer) => toComparable(request, answer));
  const different = answers.filter((_, i) => comparable.indexOf(comparable[i] as string) === i);
  for (const answer of different) expectDocumented(request, answer);
  if (mayDiffer || different.length === 1) return;
  const bySide = (texts: string[]) => ({
    request,
    ...Object.fromEntries(sides.map(({ name }, i) => [name, texts[i]])),
  });
  expect(bySide(comparable)).toEqual(bySide(comparable.map(() => comparable[0] as string)));
}

/** Leaves out the date and the id of a request that brought none. What is read of a customer depends on the worker's pace. */
function toComparable({ method, path }: Input, answer: string): string {
  const isCustomer = ['GET', 'HEAD'].includes(method) && path.startsWith('/entry/');
  const text = answer.replace(/\r\ndate: [^\r]*/i, '').replace(NEW_REQUEST_ID, '$1new');
  return isCustomer ? text.replace(/^(HTTP\/1\.1 (?:200|404)).*/ms, '$1') : text;
}
const NEW_REQUEST_ID = /(\r\nx-request-id: )[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=\r\n)/;

const isOverload = (answer: string) => /^HTTP\/1\.1 (503 |207 .*"statusCode":503)/ms.test(answer);

/** Routes that the OpenAPI document leaves out: they serve the document itself. */
const DESCRIPTION = /^\/(docs|openapi\.json)/;

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
