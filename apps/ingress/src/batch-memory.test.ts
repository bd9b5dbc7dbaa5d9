import { expect, test } from '@jest/globals';
import { createBatchMemory } from './batch-memory.js';

const MIB = 1024 * 1024;

/** How many bodies of a MiB get room before one is refused. */
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

test('a project gets half of the memory, and each more that comes its equal share, though all of it is taken', () => {
  const memory = createBatchMemory(() => {});
  expect([1, 2, 3, 4].map((projectId) => fill(memory, projectId).length)).toEqual([49, 49, 33, 24]);
});

test('a body that is released makes room for another one, once', () => {
  const memory = createBatchMemory(() => {});
  const [body] = fill(memory, 1);
  body?.release();
  body?.release();
  expect(fill(memory, 1)).toHaveLength(1);
});

test('a body that comes byte by byte counts for what its parts take', () => {
  const body = createBatchMemory(() => {}).open(1);
  expect(() => {
    for (let i = 0; i < MIB; i++) body.take(1);
  }).toThrow('too many requests at once');
});

test('a body that is refused is counted as turned away', () => {
  const reasons: string[] = [];
  fill(
    createBatchMemory((reason) => reasons.push(reason)),
    1,
  );
  expect(reasons).toEqual(['in-flight']);
});
