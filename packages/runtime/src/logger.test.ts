import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { createLogger, createThrottledWarning } from './logger.js';

let lines: string[];
beforeEach(() => {
  lines = [];
  jest.spyOn(process.stdout, 'write').mockImplementation((line) => lines.push(String(line)) > 0);
});
afterEach(() => {
  jest.restoreAllMocks();
});

const logged = (error: unknown): string => {
  createLogger({ name: 'test', level: 'info' }).warn({ err: error }, 'failed');
  return lines.join('');
};
const databaseError = (details: object, message: string) =>
  Object.assign(new Error(message, { cause: new Error(`raw: ${message}`) }), details);

test.each([
  [{ sqlState: '22021' }],
  [{ sqlState: 'P0001' }],
  [{ sqlState: '45000' }],
  [{ severity: 'ERROR', code: '23514' }],
])('a message of PostgreSQL or a trigger about a row is not logged, its code and stack are: %j', (details) => {
  const line = logged(databaseError(details, 'email jane@example.com is not allowed'));
  expect(line).not.toContain('jane');
  const { severity: _, ...code } = details as Record<string, string>;
  expect(JSON.parse(line).err).toMatchObject({ ...code, stack: expect.stringContaining('logger.test') });
});

test.each([
  [{ sqlState: '42P01' }],
  [{ sqlState: '55P03' }],
  [{ sqlState: 'XX001' }],
  [{ severity: 'FATAL', code: '57P01' }],
  [{ code: '22' }],
  [{}],
])('a message about PostgreSQL itself, or about the program, is logged: %j', (details) => {
  expect(logged(databaseError(details, 'relation does not exist'))).toContain('raw: relation does not exist');
});

function createRecorder() {
  const lines: object[] = [];
  let time = 0;
  const warn = createThrottledWarning({ warn: (fields: object) => void lines.push(fields) } as never, 'away', {
    intervalMs: 1_000,
    now: () => time,
  });
  return { lines, warn, pass: (ms: number) => (time += ms) };
}

test('the same error is logged once per interval, with the number of repeats left out', () => {
  const { lines, warn, pass } = createRecorder();
  const error = new Error('refused');
  for (let i = 0; i < 10; i++) {
    warn(error);
    pass(250);
  }
  expect(lines).toEqual([{ err: error }, { err: error, leftOut: 3 }, { err: error, leftOut: 3 }]);
});

test('errors that differ only in the id of their job are the same', () => {
  const { lines, warn } = createRecorder();
  for (let i = 0; i < 10; i++) {
    for (const id of [i, `1764000000000000-200-7x${i}-1f3a9c2e`, `repeat:purge-tombstones:${i}`]) {
      warn(new Error(`could not renew lock for job ${id}`));
      warn(new Error(`Job ${id} is not in the active state. moveToFinished`));
    }
  }
  expect(lines).toHaveLength(2);
});

test('a different error is logged at once, and each of thousands once per interval', () => {
  const { lines, warn, pass } = createRecorder();
  const warnAll = () => {
    for (let i = 0; i < 10_000; i++) warn(new Error(`project ${i}`));
  };
  for (let repeat = 0; repeat < 3; repeat++) warnAll();
  expect(lines).toHaveLength(10_000);
  pass(1_000);
  warnAll();
  expect(lines).toHaveLength(20_000);
  expect(lines.at(-1)).toMatchObject({ leftOut: 2 });
});

test('memory is bounded: beyond 10,000 different errors, those logged the longest ago are forgotten', () => {
  const { lines, warn, pass } = createRecorder();
  const warnAbout = (name: number | string) => warn(new Error(`error ${name}`));
  warnAbout('first');
  for (let i = 1; i < 10_000; i++) warnAbout(i);
  pass(1_000);
  warnAbout('first'); // the latest one now
  warnAbout('one too many');
  expect(lines).toHaveLength(10_002);
  warnAbout('first');
  warnAbout(2);
  expect(lines).toHaveLength(10_003); // the interval of 2 is over
  warnAbout(2);
  expect(lines).toHaveLength(10_003);
});
