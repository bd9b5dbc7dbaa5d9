import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { createBatchMemory, Slices } from './batch-limits.js';

const MIB = 1024 * 1024;

/** Opens bodies of 1 MiB until one is refused, and returns them. */
function fill(memory: ReturnType<typeof createBatchMemory>, projectId: number) {
  const held = [];
  for (;;) {
    const body = memory.open(projectId);
    try {
      body.take(MIB);
    } catch {
      return held;
    }
    held.push(body);
  }
}

test('a project gets half of the memory, and each further project its equal share, even if the memory is full', () => {
  const memory = createBatchMemory(() => {});
  expect([1, 2, 3, 4].map((projectId) => fill(memory, projectId).length)).toEqual([49, 49, 33, 24]);
});

test('a released body makes room for another one, once', () => {
  const memory = createBatchMemory(() => {});
  const [body] = fill(memory, 1);
  body?.release();
  body?.release();
  expect(fill(memory, 1)).toHaveLength(1);
});

test('a body that arrives byte by byte counts with the overhead of its parts', () => {
  const body = createBatchMemory(() => {}).open(1);
  expect(() => {
    for (let i = 0; i < MIB; i++) body.take(1);
  }).toThrow('too many requests at once');
});

test('a refused body is reported as shed', () => {
  const reasons: string[] = [];
  fill(
    createBatchMemory((reason) => reasons.push(reason)),
    1,
  );
  expect(reasons).toEqual(['in-flight']);
});

/** Each piece of work advances a fake clock by one millisecond. */
function simulate() {
  let now = 0;
  const done: string[] = [];
  const slices = new Slices(() => now);
  async function work(projectId: number, name: string, pieces: number): Promise<void> {
    for (let i = 0; i < pieces; i++) {
      await slices.next(projectId);
      now++;
      done.push(name);
    }
  }
  return { work, done };
}

/** Returns the work done between one turn of the event loop and the next. */
async function watchTurns(done: string[], all: Promise<unknown>): Promise<string[][]> {
  const turns: string[][] = [];
  let isOver = false;
  all.finally(() => {
    isOver = true;
  });
  for (let seen = 0; !isOver; seen = done.length) {
    await turn();
    turns.push(done.slice(seen));
  }
  return turns;
}

test('any amount of work runs in slices of 5 ms in total, with a turn of the event loop between them', async () => {
  const { work, done } = simulate();
  const bodies = Array.from({ length: 20 }, (_, i) => work(i % 3, `body ${i}`, 23));
  const turns = await watchTurns(done, Promise.all(bodies));
  expect(done).toHaveLength(20 * 23);
  expect(Math.max(...turns.map((pieces) => pieces.length))).toBe(5);
});

test('projects take turns, so many bodies of one do not delay that of another', async () => {
  const { work, done } = simulate();
  const many = Array.from({ length: 50 }, (_, i) => work(1, `many ${i}`, 10));
  const one = work(2, 'one', 10);
  await Promise.all([...many, one]);
  // Ten pieces need two slices, and each slice waits for at most one slice of the other project.
  expect(done.lastIndexOf('one')).toBeLessThan(25);
});

test('short work waits for one turn only', async () => {
  const { work, done } = simulate();
  const turns = await watchTurns(done, work(1, 'short', 4));
  expect(turns.filter((pieces) => pieces.length > 0)).toEqual([Array(4).fill('short')]);
});
