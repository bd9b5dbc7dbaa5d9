import { describe, expect, test } from '@jest/globals';
import { withTimeout } from './random.js';

const never = new Promise<never>(() => {});

describe('withTimeout', () => {
  test('settles as the promise does', async () => {
    expect(await withTimeout(Promise.resolve(1), { maxMs: 60_000 })).toBe(1);
    await expect(withTimeout(Promise.reject(new Error('no')), {})).rejects.toThrow('no');
  });

  test('rejects after the time or when the signal is aborted, even before the call', async () => {
    await expect(withTimeout(never, { maxMs: 1 })).rejects.toThrow('not done within 0.001 s');
    await expect(withTimeout(never, { giveUp: AbortSignal.abort() })).rejects.toThrow('given up');
  });
});
