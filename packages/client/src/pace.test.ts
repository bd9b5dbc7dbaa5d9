import { describe, expect, test } from '@jest/globals';
import { Pace } from './pace.js';

const MOST = 1_000;

function createPace() {
  const clock = { now: 0 };
  const pace = new Pace({ now: () => clock.now, random: () => 0 });
  /** A limit of 100 entries a second and a burst of 200, unless told otherwise. */
  const limit = (remaining: number, { burst = 200, perSecond = 100 } = {}) => ({ burst, perSecond, remaining });
  return { pace, clock, limit };
}

test('without a limit, nothing waits and nothing is small', () => {
  const { pace } = createPace();
  pace.onTaken({ rateLimit: undefined });
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, false, MOST]);
});

test('no request is larger than the burst, once it is known', () => {
  const { pace, limit } = createPace();
  pace.onTaken({ rateLimit: limit(7) });
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, false, 200]);
});

test('from a refusal until nothing is left to send, requests have what there is room for, and wait for a second’s worth', () => {
  const { pace, clock, limit } = createPace();
  expect(pace.onRefused({ rateLimit: limit(0), retryAfter: 2 })).toBe(1_000);
  clock.now = 1_000;
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, true, 100]);
  pace.onTaken({ rateLimit: limit(10) });
  expect([pace.waitMs(), pace.isLimited]).toEqual([900, true]);
  clock.now = 1_900;
  expect([pace.waitMs(), pace.maxEntries(MOST)]).toEqual([0, 100]);
  pace.onTaken({ rateLimit: limit(150) });
  expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, true, 150]);
  pace.onIdle();
  expect([pace.isLimited, pace.maxEntries(MOST)]).toEqual([false, 200]);
});

test('a limit of less than one entry a second is waited for', () => {
  const { pace, clock, limit } = createPace();
  expect(pace.onRefused({ rateLimit: limit(0, { burst: 1, perSecond: 0.1 }), retryAfter: 10 })).toBe(10_000);
  clock.now = 10_000;
  expect([pace.waitMs(), pace.maxEntries(MOST)]).toEqual([0, 1]);
});

test('what the limit lets through is sent, also where the burst is less than a second’s worth', () => {
  const { pace, clock, limit } = createPace();
  const [burst, perSecond, answerMs] = [100, 1_000, 10];
  pace.onRefused({ rateLimit: limit(0, { burst, perSecond }), retryAfter: 1 });
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
    pace.onTaken({ rateLimit: limit(Math.floor(bucket), { burst, perSecond }) });
  }
  expect(sent).toBeGreaterThan(9_500);
});

describe('a refusal that does not tell the limit', () => {
  test('is waited for as it says, and is over when something is taken', () => {
    const { pace, clock } = createPace();
    expect(pace.onRefused({ rateLimit: undefined, retryAfter: 3 })).toBe(3_000);
    clock.now = 3_000;
    expect([pace.waitMs(), pace.isLimited, pace.maxEntries(MOST)]).toEqual([0, true, MOST]);
    pace.onTaken({ rateLimit: undefined });
    expect(pace.isLimited).toBe(false);
  });

  test('is waited for longer each time', () => {
    const pace = new Pace({ now: () => 0, random: () => 1 });
    const refuse = () => pace.onRefused({ rateLimit: undefined, retryAfter: undefined });
    expect([refuse(), refuse(), refuse()]).toEqual([100, 200, 400]);
    pace.onTaken({ rateLimit: undefined });
    expect(pace.waitMs()).toBe(400);
  });
});
