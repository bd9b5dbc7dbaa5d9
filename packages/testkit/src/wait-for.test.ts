import { describe, expect, test } from '@jest/globals';
import { waitFor } from './wait-for.js';

describe('waitFor', () => {
  test('returns the value of the condition once it is truthy', async () => {
    const answers = [undefined, 0, '', 'ready'];
    await expect(waitFor(async () => answers.shift(), { description: 'an answer' })).resolves.toBe('ready');
    expect(answers).toEqual([]);
  });

  test('keeps polling while the condition throws', async () => {
    let calls = 0;
    const condition = () => {
      calls += 1;
      if (calls < 3) throw new Error('not yet');
      return calls;
    };
    await expect(waitFor(condition, { description: 'the third call' })).resolves.toBe(3);
  });

  test('rejects with what it waited for, and the last error as the cause', async () => {
    const cause = new Error('connection refused');
    const waiting = waitFor(() => Promise.reject(cause), { description: 'the row', timeoutMs: 30 });
    await expect(waiting).rejects.toMatchObject({ message: 'Timed out after 30 ms waiting for the row', cause });
  });
});
