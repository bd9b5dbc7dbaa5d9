import { expect, test } from '@jest/globals';
import { BucketLocked, createTokenBuckets, type Reserved } from './token-buckets.js';

const LIMIT = { rate: 10, burst: 10 };
const CALL = { wanted: 1, returned: 0 };
const RESERVED: Reserved = { granted: 1, available: 9, clock: 1 };

/** Buckets whose calls get these answers in order. The last answer repeats. */
function createBuckets(answers: (Reserved | Error)[], maxWaitMs = 10_000) {
  let called = 0;
  const buckets = createTokenBuckets({
    groupOf: () => 0,
    async reserveMany(_group, calls) {
      const answer = answers[Math.min(called++, answers.length - 1)] as Reserved | Error;
      if (answer instanceof BucketLocked || !(answer instanceof Error)) return calls.map(() => answer);
      throw answer;
    },
    maxWaitMs,
  });
  return { reserve: () => buckets.reserve(1, LIMIT, CALL), called: () => called };
}

test('a bucket that another session has locked is retried until it is free', async () => {
  const { reserve, called } = createBuckets([new BucketLocked('locked'), new BucketLocked('locked'), RESERVED]);
  expect(await reserve()).toEqual(RESERVED);
  expect(called()).toBe(3);
});

test('a bucket that stays locked is not retried in the second half of the time: its tokens would come too late', async () => {
  const since = performance.now();
  await expect(createBuckets([new BucketLocked('locked')], 200).reserve()).rejects.toThrow(/locked|did not answer/);
  expect(performance.now() - since).toBeGreaterThanOrEqual(100);
});

test('any other error is thrown without a retry', async () => {
  const { reserve, called } = createBuckets([new Error('the store is down'), RESERVED]);
  await expect(reserve()).rejects.toThrow('the store is down');
  expect(called()).toBe(1);
});
