import { expect, test } from '@jest/globals';
import { parseJobId, toJobId } from './job-id.js';

const T0 = 1_764_000_000_000_000; // can be divided by 16
const entryOf = (version: number, projectId = 7) => ({
  projectId,
  customerId: 'jane',
  version,
  fields: { phone: '+1' },
});

test('a job’s id tells the oldest claim in it, how many entries it has, and what they count for their projects', () => {
  const entries = [...Array.from({ length: 40 }, (_, i) => entryOf(T0 + i)), entryOf(T0 + 48, 9), entryOf(T0 + 49, 10)];
  expect(parseJobId(toJobId({ entries: entries.toReversed() }))).toEqual({
    oldest: T0,
    entries: 42,
    ofProjects: [
      [9, 16],
      [7, 48],
    ],
  });
});

test('an entry that was admitted anew counts by its claim', () => {
  const entries = [{ ...entryOf(T0 - 160), claim: T0 + 17 }];
  expect(parseJobId(toJobId({ entries }))).toEqual({ oldest: T0 + 17, entries: 1, ofProjects: [] });
});

test('chunks that are alike have ids that are not, for BullMQ drops a job whose id is there already', () => {
  const chunk = { entries: [entryOf(T0)] };
  expect(toJobId(chunk)).not.toBe(toJobId(chunk));
});

test('the ids of the last release tell all entries of their project', () => {
  expect(parseJobId(`${T0}-7x150-1f3a9c2e`)).toEqual({ oldest: T0, entries: 150, ofProjects: [[7, 150]] });
});

test.each(['17', 'repeat-x', `${T0}-1f3a9c2e`, `${T0}-7x200`, `${T0}-200`, ''])('the id %s tells nothing', (id) => {
  expect(parseJobId(id)).toBeUndefined();
});
