import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { Slices } from './slices.js';

/** Each piece of work takes a millisecond of a clock that stands still otherwise. */
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

/** What was done in each turn of the event loop, in which somebody else had a turn, too. */
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

test('however much there is to do, it is done in slices of 5 ms in all, and between any two others have a turn', async () => {
  const { work, done } = simulate();
  const bodies = Array.from({ length: 20 }, (_, i) => work(i % 3, `body ${i}`, 23));
  const turns = await watchTurns(done, Promise.all(bodies));
  expect(done).toHaveLength(20 * 23);
  expect(Math.max(...turns.map((pieces) => pieces.length))).toBe(5);
});

test('projects take turns, so that many bodies of one do not delay that of another', async () => {
  const { work, done } = simulate();
  const many = Array.from({ length: 50 }, (_, i) => work(1, `many ${i}`, 10));
  const one = work(2, 'one', 10);
  await Promise.all([...many, one]);
  // Ten pieces are two slices, and each waits for one of the others at most.
  expect(done.lastIndexOf('one')).toBeLessThan(25);
});

test('what is short waits for one turn only', async () => {
  const { work, done } = simulate();
  const turns = await watchTurns(done, work(1, 'short', 4));
  expect(turns.filter((pieces) => pieces.length > 0)).toEqual([Array(4).fill('short')]);
});
