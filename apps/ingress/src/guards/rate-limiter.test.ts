import { expect, test } from '@jest/globals';
import { createLogger } from '@opm/runtime';
import { toTimeBudget } from '../config.js';
import { createRateLimiter } from './rate-limiter.js';

const waiting = { startedAt: 0, bodyBytes: 0, socket: { destroyed: false }, reservation: undefined };

test('a token reservation that hangs delays only its own project, and only until its timeout', async () => {
  const called: number[] = [];
  const shed: [string, number][] = [];
  const { take } = createRateLimiter({
    reserve: (projectId) => {
      called.push(projectId);
      if (called.length === projects.length) second = sendAll(); // before any call can have timed out
      return new Promise(() => {});
    },
    budget: toTimeBudget(10_000),
    maxPending: 1_000,
    onReserve: () => {},
    onShed: (...args) => shed.push(args),
    logger: createLogger({ name: 'test', level: 'silent' }),
  });
  const limit = { rate: 1, burst: 1 };
  const entries = 3;
  const projects = Array.from({ length: 200 }, (_project, projectId) => projectId);
  const sendAll = async () => {
    const outcomes = await Promise.allSettled(
      projects.map((projectId) => take({ ...waiting, projectId, limit }, entries)),
    );
    return new Set(outcomes.map((outcome) => outcome.status === 'rejected' && outcome.reason.code));
  };
  let second: Promise<unknown> | undefined;
  const first = sendAll();
  expect(await first).toEqual(new Set(['QUEUE_UNAVAILABLE']));
  expect(await second).toEqual(new Set(['OVERLOADED']));
  expect(called).toEqual(projects);
  expect(shed).toEqual(projects.map(() => ['waited', entries]));
});

test('charging a refused request resolves even if the token store fails, so the partner gets the reason', async () => {
  const { charge } = createRateLimiter({
    reserve: () => Promise.reject(new Error('the store is down')),
    budget: toTimeBudget(10_000),
    maxPending: 1_000,
    onReserve: () => {},
    onShed: () => {},
    logger: createLogger({ name: 'test', level: 'silent' }),
  });
  const limit = { rate: 1, burst: 1 };
  await expect(charge({ ...waiting, projectId: 1, limit }, 10)).resolves.toBeUndefined();
  expect(charge({ ...waiting, projectId: 1, limit: undefined }, 10)).toBeUndefined();
});
