import { expect, test } from '@jest/globals';
import { OutagePause } from './outage-pause.js';

test('pauses double with every failure up to a limit, calls that fail together count once, and success ends it', async () => {
  let now = 0;
  let failures = 0;
  const pause = new OutagePause({ onFailure: () => failures++, now: () => now });
  const fail = () => pause.run(() => Promise.reject(new Error('away'))).catch(() => {});
  const measured: number[] = [];
  for (let i = 0; i < 6; i++) {
    await Promise.all([fail(), fail()]);
    const start = now;
    while (pause.isActive) now += 100;
    measured.push(now - start);
  }
  expect(measured).toEqual([1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
  expect(failures).toBe(6);
  await fail();
  expect(await pause.run(async () => 'back')).toBe('back');
  expect(pause.isActive).toBe(false);
});
