import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { CircuitBreaker } from '../ingest/circuit-breaker.js';
import { createReadProject, type ReadProject } from './get-project.js';

type Usage = Awaited<ReturnType<ReadProject['usage']>>;

let asked: number[];
let answer: (projectId: number) => Promise<Usage>;
let readProject: ReadProject;
let breakers: CircuitBreaker[];
let time: number;

const toUsage = (created: number): Usage => [
  { ...{ day: '2026-11-30', created, updated: 0, erased: 0, deadLetters: 0 }, ...NONE },
];
const NONE = { refusedInvalid: 0, refusedLimited: 0, refusedUnavailable: 0 };
const UNAVAILABLE = expect.objectContaining({ code: 'USAGE_UNAVAILABLE' });

beforeEach(() => {
  asked = [];
  breakers = [];
  time = 5_000;
  answer = async (projectId) => toUsage(projectId);
  const budget = { turnMs: 60_000, workMs: 60_000 };
  readProject = createWith(budget);
});
const createWith = (budget: { turnMs: number; workMs: number }) =>
  createReadProject({
    usage(projectId) {
      asked.push(projectId);
      return answer(projectId);
    },
    keys: async () => [],
    budget,
    now: () => time,
    createBreaker() {
      const breaker = new CircuitBreaker({ onFailure: () => {}, now: () => time });
      breakers.push(breaker);
      return breaker;
    },
  });
afterEach(() => expect(breakers).toHaveLength(2));

test('requests of a project at the same time share a statement, and each project gets its own counts', async () => {
  const projects = [1, 2, 1, 1, 2, 3];
  expect(await Promise.all(projects.map((id) => readProject.usage(id)))).toEqual(projects.map(toUsage));
  expect(asked).toEqual([1, 2, 3]);
});

test('a partner that asks in a loop gets the last result for a second, and not for longer', async () => {
  expect(await readProject.usage(1)).toEqual(toUsage(1));
  answer = async () => toUsage(7);
  for (const at of [5_000, 5_600, 6_000]) {
    time = at;
    expect(await readProject.usage(1)).toEqual(toUsage(1));
  }
  expect(asked).toEqual([1]);
  time = 6_001;
  expect(await readProject.usage(1)).toEqual(toUsage(7));
});

test('one statement runs at a time, so a partner leaves connections to others', async () => {
  let running = 0;
  answer = async (projectId) => {
    expect(++running).toBe(1);
    await new Promise(setImmediate);
    running--;
    return toUsage(projectId);
  };
  const ids = Array.from({ length: 20 }, (_, i) => i + 1);
  expect(await Promise.all(ids.map((id) => readProject.usage(id)))).toEqual(ids.map(toUsage));
});

test('a statement that hangs is given up, and then nobody waits for one', async () => {
  readProject = createWith({ turnMs: 1, workMs: 1 });
  breakers.splice(0, 2);
  answer = () => new Promise(() => {});
  await expect(readProject.usage(1)).rejects.toEqual(UNAVAILABLE);
  await expect(readProject.usage(2)).rejects.toEqual(UNAVAILABLE);
  expect(asked).toEqual([1]);
  expect(await readProject.keys(1)).toEqual([]); // another statement, another circuit breaker
});

test('a failure is not remembered as a result', async () => {
  answer = () => Promise.reject(new Error('connection lost'));
  await expect(readProject.usage(1)).rejects.toEqual(UNAVAILABLE);
  answer = async (projectId) => toUsage(projectId);
  await breakers[0]?.run(async () => {});
  expect(await readProject.usage(1)).toEqual(toUsage(1));
});
