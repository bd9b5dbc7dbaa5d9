import { expect, test } from '@jest/globals';
import { parseJobId, toJobId } from './job-id.js';

const entryOf = (version: number) => ({ customerId: 'jane', version, fields: { phone: '+1' } });
const T0 = 1_764_000_000_000_000;

test('a job’s id tells the oldest version in it and how many entries its project has there', () => {
  const id = toJobId({ projectId: 7, entries: [entryOf(T0 + 2), entryOf(T0), entryOf(T0 + 1)] });
  expect(parseJobId(id)).toEqual({ oldest: T0, entries: [[7, 3]] });
});

test('chunks that are alike have ids that are not, for BullMQ drops a job whose id is there already', () => {
  const chunk = { projectId: 7, entries: [entryOf(T0)] };
  expect(toJobId(chunk)).not.toBe(toJobId(chunk));
});

test('an id may count the entries of several projects', () => {
  expect(parseJobId(`${T0}-7x150-9x50-1f3a9c2e`)).toEqual({
    oldest: T0,
    entries: [
      [7, 150],
      [9, 50],
    ],
  });
});

test.each(['17', 'repeat-x', `${T0}-1f3a9c2e`, `${T0}-7x200`, ''])('the id %s tells nothing', (id) => {
  expect(parseJobId(id)).toBeUndefined();
});
