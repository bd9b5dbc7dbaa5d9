import { expect, test } from '@jest/globals';
import { awaitAll, singleFlight } from './with-timeout.js';

test('a promise that rejects at once does not cut the others short, and its error is thrown', async () => {
  const done: string[] = [];
  async function slow(): Promise<void> {
    await new Promise(setImmediate);
    done.push('slow');
  }
  await expect(awaitAll([Promise.reject(new Error('refused')), slow()])).rejects.toThrow('refused');
  expect(done).toEqual(['slow']);
});

test('a call rejects after the timeout, and a new run starts only after the previous one has ended', async () => {
  const ends: ((value: string) => void)[] = [];
  const run = singleFlight(() => new Promise<string>((end) => ends.push(end)), 20);
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
