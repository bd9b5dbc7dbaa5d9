import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { createLogger } from './logger.js';

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
])('what PostgreSQL or a trigger says of a row is not logged, its code and where it happened are: %j', (details) => {
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
])('what says what is wrong with PostgreSQL, or with the program, is logged: %j', (details) => {
  expect(logged(databaseError(details, 'relation does not exist'))).toContain('raw: relation does not exist');
});
