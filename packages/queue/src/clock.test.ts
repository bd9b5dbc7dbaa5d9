import { afterEach, expect, jest, test } from '@jest/globals';
import { followClock, measureSkew } from './clock.js';
import { toAddresses } from './queue-store.js';

afterEach(() => {
  jest.restoreAllMocks();
});

const limits = { lockMs: 30_000, stalledMs: 30_000, delayMs: 30_000 };

test.each([
  ['no master answers in time', async () => [], []],
  ['the measurement fails', () => Promise.reject('too slow'), ['too slow']],
])('the deadlines of every shard are shortened even if %s', async (_, readClockSkews, expected) => {
  const shortened: unknown[] = [];
  const errors: unknown[] = [];
  const backend = { readClockSkews, shortenDeadlines: async (address: unknown) => void shortened.push(address) };
  const stop = await followClock(backend, { shards: 2, limits, onError: (error) => errors.push(error) });
  stop();
  expect(shortened).toEqual(toAddresses(2));
  expect(errors).toEqual(expected);
});

test('a shard whose deadlines cannot be shortened does not keep the process from following the clock', async () => {
  const ahead = 3_600_000;
  const shortenDeadlines = () => Promise.reject(new Error('this master is down'));
  const before = Date.now();
  const errors: Error[] = [];
  const onError = (error: Error) => errors.push(error);
  const stop = await followClock(
    { readClockSkews: async () => [ahead], shortenDeadlines },
    { shards: 1, limits, onError },
  );
  expect(Date.now() - before).toBeGreaterThanOrEqual(ahead);
  stop();
  expect(Date.now() - before).toBeLessThan(ahead);
  expect(errors.map(({ message }) => message)).toEqual(['this master is down']);
});

test('of a slow server, only a difference larger than the error of the measurement is measured', async () => {
  const measure = (ahead: number) => {
    jest.spyOn(performance, 'now').mockReturnValueOnce(0).mockReturnValueOnce(1_500);
    return measureSkew(async () => Date.now() + ahead);
  };
  await expect(measure(0)).rejects.toThrow('cannot measure the clock: the server answered after 1500 ms');
  expect(Math.round((await measure(3_600_000)) / 60_000)).toBe(60);
  expect(Math.round((await measure(-3_600_000)) / 60_000)).toBe(-60);
});
