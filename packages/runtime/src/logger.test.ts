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
const storeError = (kind: string, sqlState: string | undefined, message: string) =>
  Object.assign(new Error(message, { cause: new Error(`raw: ${message}`) }), { kind, sqlState });

test.each([
  ['refusal', '22021'],
  ['unknown', 'P0001'],
])(
  'what PostgreSQL or a trigger says of a row is not logged, its code and where it happened are: %s',
  (kind, sqlState) => {
    const line = logged(storeError(kind, sqlState, 'email jane@example.com is not allowed'));
    expect(line).not.toContain('jane');
    expect(JSON.parse(line).err).toMatchObject({ sqlState, stack: expect.stringContaining('logger.test') });
  },
);

test.each([
  ['outage', '42P01'],
  ['blocked', '55P03'],
  ['unknown', undefined],
])('what says what is wrong with PostgreSQL, or with the program, is logged: %s %s', (kind, sqlState) => {
  expect(logged(storeError(kind, sqlState, 'relation does not exist'))).toContain('raw: relation does not exist');
});
