import { describe, expect, test } from '@jest/globals';
import type { RateLimit } from './errors.js';
import { parseRateLimit, parseRetryAfter } from './http-transport.js';
import { Pace, toDelayMs } from './pace.js';

const MOST = 1_000;

function createPace() {
  const clock = { now: 0 };
  const pace = new Pace({ now: () => clock.now, random: () => 0 });
  /** By default, a limit of 100 entries per second with a burst of 200. */
  const limit = (remaining: number, { burst = 200, perSecond = 100 } = {}) => ({ burst, perSecond, remaining });
  return { pace, clock, limit };
}

test('without a limit, requests neither wait nor get smaller', () => {
  const { pace } = createPace();
  pace.onAccepted({ rateLimit: undefined });
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, false, MOST]);
});

test('once the burst is known, no request is larger', () => {
  const { pace, limit } = createPace();
  pace.onAccepted({ rateLimit: limit(7) });
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, false, 200]);
});

test('after a 429 and until nothing is left to send, requests wait for a second’s worth of tokens and use no more', () => {
  const { pace, clock, limit } = createPace();
  expect(pace.onRateLimited({ rateLimit: limit(0), retryAfter: 2 }, MOST)).toBe(1_000);
  clock.now = 1_000;
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, true, 100]);
  pace.onAccepted({ rateLimit: limit(10) });
  expect([pace.waitMs(), pace.isLimited]).toEqual([900, true]);
  clock.now = 1_900;
  expect([pace.waitMs(), pace.maxEntries(MOST)]).toEqual([0, 100]);
  pace.onAccepted({ rateLimit: limit(150) });
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, true, 150]);
  pace.onIdle();
  expect([pace.isLimited, pace.maxEntries(MOST)]).toEqual([false, 200]);
});

test('a limit below one entry per second makes requests wait', () => {
  const { pace, clock, limit } = createPace();
  expect(pace.onRateLimited({ rateLimit: limit(0, { burst: 1, perSecond: 0.1 }), retryAfter: 10 }, 1)).toBe(10_000);
  clock.now = 10_000;
  expect([pace.waitMs(), pace.maxEntries(MOST)]).toEqual([0, 1]);
});

test('the whole limit is used, even if the burst is less than a second’s worth', () => {
  const { pace, clock, limit } = createPace();
  const [burst, perSecond, answerMs] = [100, 1_000, 10];
  pace.onRateLimited({ rateLimit: limit(0, { burst, perSecond }), retryAfter: 1 }, MOST);
  let [bucket, sent] = [0, 0];
  const pass = (ms: number) => {
    bucket = Math.min(burst, bucket + (perSecond * ms) / 1_000);
    clock.now += ms;
  };
  while (clock.now < 10_000) {
    pass(pace.waitMs());
    const entries = pace.maxEntries(MOST);
    expect(entries).toBeLessThanOrEqual(bucket);
    sent += entries;
    bucket -= entries;
    pass(answerMs);
    pace.onAccepted({ rateLimit: limit(Math.floor(bucket), { burst, perSecond }) });
  }
  expect(sent).toBeGreaterThan(9_500);
});

test('if the server blocks the project for longer than the limit explains, requests wait for Retry-After', () => {
  const { pace, limit } = createPace();
  // 1,000 entries may have to wait for 10 seconds, the next ones only for a second's worth.
  expect(pace.onRateLimited({ rateLimit: limit(0), retryAfter: 10 }, 1_000)).toBe(1_000);
  expect(pace.onRateLimited({ rateLimit: limit(0), retryAfter: 2 }, 100)).toBe(1_000);
  expect(pace.onRateLimited({ rateLimit: limit(0), retryAfter: 10 }, 100)).toBe(10_000);
});

describe('a 429 without the limit', () => {
  test('makes requests wait for Retry-After, until something is accepted', () => {
    const { pace, clock } = createPace();
    expect(pace.onRateLimited({ rateLimit: undefined, retryAfter: 3 }, MOST)).toBe(3_000);
    clock.now = 3_000;
    expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, true, MOST]);
    pace.onAccepted({ rateLimit: undefined });
    expect(pace.isLimited).toBe(false);
  });

  test('makes requests wait longer each time', () => {
    const pace = new Pace({ now: () => 0, random: () => 1 });
    const refuse = () => pace.onRateLimited({ rateLimit: undefined, retryAfter: undefined }, MOST);
    expect([refuse(), refuse(), refuse()]).toEqual([100, 200, 400]);
    pace.onAccepted({ rateLimit: undefined });
    expect(pace.waitMs()).toBe(400);
  });
});

test.each<[string | undefined, string | undefined, RateLimit | undefined]>([
  ['"burst";q=200;w=2', '"burst";r=5;t=1', { burst: 200, perSecond: 100, remaining: 5 }],
  ['"burst";q=100;w=1;opm-rate=1000', '"burst";r=5;t=1', { burst: 100, perSecond: 1_000, remaining: 5 }],
  ['"burst";q=100;w=1;opm-rate=0', '"burst";r=5;t=1', { burst: 100, perSecond: 100, remaining: 5 }],
  ['"burst"; w=10; q=1', '"burst"; r=0', { burst: 1, perSecond: 0.1, remaining: 0 }],
  ['"burst";q=200;w=2, "other";q=1;w=1', '"burst";r=5, "other";r=0', { burst: 200, perSecond: 100, remaining: 5 }],
  ['"burst";q=0;w=2', '"burst";r=0', undefined],
  ['"burst";q=2;w=0', '"burst";r=0', undefined],
  ['"burst";q=2', '"burst";r=0', undefined],
  ['"burst";q=2;w=1', '"burst";r=0.5', undefined],
  ['"burst";q=2;w=1', undefined, undefined],
  [undefined, undefined, undefined],
])('RateLimit-Policy: %s and RateLimit: %s', (policy, state, expected) => {
  expect(parseRateLimit(policy, state)).toEqual(expected);
});

const NOW = Date.parse('2026-11-25T12:00:00Z');

test.each<[string | undefined, number | undefined]>([
  ['0', 0],
  ['1', 1],
  [' 120 ', 120],
  ['Wed, 25 Nov 2026 12:00:07 GMT', 7],
  ['Wednesday, 25-Nov-26 12:00:07 GMT', 7],
  ['Wed, 25 Nov 2026 11:59:00 GMT', 0],
  [undefined, undefined],
  ['', undefined],
  ['-1', undefined],
  ['1.5', undefined],
  ['soon', undefined],
  ['2026', 2026],
])('Retry-After: %s means %s seconds from now', (header, seconds) => {
  expect(parseRetryAfter(header, NOW)).toBe(seconds);
});

test('backoff doubles up to ten seconds, has full jitter, and is added to Retry-After', () => {
  const longest = [1, 2, 3, 4, 20].map((tries) => toDelayMs(tries, undefined, () => 1));
  expect(longest).toEqual([100, 200, 400, 800, 10_000]);
  expect(toDelayMs(20, undefined, () => 0)).toBe(0);
  expect(toDelayMs(1, 5, () => 0)).toBe(5_000);
  expect(toDelayMs(1, 5, () => 1)).toBe(5_100);
});
