import { expect, test } from '@jest/globals';
import { CircuitBreaker } from './circuit-breaker.js';

test('the open time doubles per failure up to a limit, concurrent failures count once, and success closes it', async () => {
  let now = 0;
  let failures = 0;
  const breaker = new CircuitBreaker({ onFailure: () => failures++, now: () => now });
  const fail = () => breaker.run(() => Promise.reject(new Error('away'))).catch(() => {});
  const openMs: number[] = [];
  for (let i = 0; i < 6; i++) {
    await Promise.all([fail(), fail()]);
    const start = now;
    while (breaker.isOpen) now += 100;
    openMs.push(now - start);
  }
  expect(openMs).toEqual([1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
  expect(failures).toBe(6);
  await fail();
  expect(await breaker.run(async () => 'back')).toBe('back');
  expect(breaker.isOpen).toBe(false);
});
