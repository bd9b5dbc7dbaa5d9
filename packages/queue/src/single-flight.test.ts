import { expect, test } from '@jest/globals';
import { singleFlight } from './single-flight.js';

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
