import { expect, test } from '@jest/globals';
import { parseRateLimit, type RateLimit } from './rate-limit.js';

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
