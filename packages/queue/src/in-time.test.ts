import { expect, test } from '@jest/globals';
import { allDone, inTime } from './in-time.js';

test('what takes longer is waited for no longer, and not begun again before it is done', async () => {
  const ends: ((value: string) => void)[] = [];
  const run = inTime(() => new Promise<string>((end) => ends.push(end)), 20);
  await expect(run()).rejects.toThrow('20 ms');
  await expect(run()).rejects.toThrow('20 ms');
  expect(ends).toHaveLength(1);

  ends[0]?.('late');
  await new Promise(setImmediate);
  const again = run();
  expect(ends).toHaveLength(2);
  ends[1]?.('in time');
  expect(await again).toBe('in time');
});

test('one that fails at once leaves the others their time, and is told', async () => {
  const done: string[] = [];
  const slow = inTime(async () => {
    await new Promise(setImmediate);
    done.push('slow');
  }, 10_000);
  await expect(allDone([Promise.reject(new Error('refused')), slow()])).rejects.toThrow('refused');
  expect(done).toEqual(['slow']);
});
