import { expect, test } from '@jest/globals';
import { BucketHeld, createTokenBuckets, type Leased } from './token-buckets.js';

const LIMIT = { rate: 10, burst: 10 };
const CALL = { wanted: 1, returned: 0 };
const LEASED: Leased = { granted: 1, available: 9, clock: 1 };

/** Buckets whose calls are answered one after the other as given; the last answer comes again and again. */
function createBuckets(answers: (Leased | Error)[], maxWaitMs = 10_000) {
  let called = 0;
  const buckets = createTokenBuckets({
    place: () => 0,
    async leaseMany(_place, calls) {
      const answer = answers[Math.min(called++, answers.length - 1)] as Leased | Error;
      if (answer instanceof BucketHeld || !(answer instanceof Error)) return calls.map(() => answer);
      throw answer;
    },
    maxWaitMs,
  });
  return { lease: () => buckets.lease(1, LIMIT, CALL), called: () => called };
}

test('a bucket that another session holds is asked again until it is free', async () => {
  const { lease, called } = createBuckets([new BucketHeld('held'), new BucketHeld('held'), LEASED]);
  expect(await lease()).toEqual(LEASED);
  expect(called()).toBe(3);
});

test('a bucket that stays held is not asked in the second half of the time, for its tokens would come too late', async () => {
  const since = performance.now();
  await expect(createBuckets([new BucketHeld('held')], 200).lease()).rejects.toThrow(/held|do not answer/);
  expect(performance.now() - since).toBeGreaterThanOrEqual(100);
});

test('any other error is an answer', async () => {
  const { lease, called } = createBuckets([new Error('the store is away'), LEASED]);
  await expect(lease()).rejects.toThrow('the store is away');
  expect(called()).toBe(1);
});
