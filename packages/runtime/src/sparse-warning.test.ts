import { expect, test } from '@jest/globals';
import { createSparseWarning } from './sparse-warning.js';

function createRecorder() {
  const lines: object[] = [];
  let time = 0;
  const warn = createSparseWarning({ warn: (fields: object) => void lines.push(fields) } as never, 'away', {
    intervalMs: 1_000,
    now: () => time,
  });
  return { lines, warn, pass: (ms: number) => (time += ms) };
}

test('the same error is logged once per interval, with how often it was left out', () => {
  const { lines, warn, pass } = createRecorder();
  const error = new Error('refused');
  for (let i = 0; i < 10; i++) {
    warn(error);
    pass(250);
  }
  expect(lines).toEqual([{ err: error }, { err: error, leftOut: 3 }, { err: error, leftOut: 3 }]);
});

test('errors that differ in the number of their job alone are the same', () => {
  const { lines, warn } = createRecorder();
  for (let i = 0; i < 10; i++) {
    warn(new Error(`could not renew lock for job ${i}`));
    warn(new Error(`Job ${i} is not in the active state. moveToFinished`));
  }
  expect(lines).toHaveLength(2);
});

test('another error is logged at once, and memory is bounded', () => {
  const { lines, warn } = createRecorder();
  for (let i = 0; i < 1_000; i++) warn(new Error(`error ${i}`));
  expect(lines).toHaveLength(1_000);
});
