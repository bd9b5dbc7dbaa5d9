import { describe, expect, test } from '@jest/globals';
import { bounded } from './bounded.js';

const never = new Promise<never>(() => {});

describe('work that is bounded', () => {
  test('comes to what it comes to', async () => {
    expect(await bounded(Promise.resolve(1), { maxMs: 60_000 })).toBe(1);
    await expect(bounded(Promise.reject(new Error('no')), {})).rejects.toThrow('no');
  });

  test('ends with the time, or when it is given up, even before', async () => {
    await expect(bounded(never, { maxMs: 1 })).rejects.toThrow('not done within 0.001 s');
    await expect(bounded(never, { giveUp: AbortSignal.abort() })).rejects.toThrow('given up');
  });
});
