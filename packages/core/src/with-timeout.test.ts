import { expect, test } from '@jest/globals';
import { awaitAll } from './with-timeout.js';

test('a promise that rejects at once does not cut the others short, and its error is thrown', async () => {
  const done: string[] = [];
  async function slow(): Promise<void> {
    await new Promise(setImmediate);
    done.push('slow');
  }
  await expect(awaitAll([Promise.reject(new Error('refused')), slow()])).rejects.toThrow('refused');
  expect(done).toEqual(['slow']);
});
