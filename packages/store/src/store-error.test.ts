import { expect, test } from '@jest/globals';
import { failureKindOf, StoreError, toStoreError } from './store-error.js';

const refused = () => Object.assign(new Error('connect ECONNREFUSED ::1:5432'), { code: 'ECONNREFUSED' });

test.each([
  ['a refused connection', refused()],
  ['a host with several addresses, none of which answers', new AggregateError([refused(), refused()], '')],
  ['an error that wraps one', Object.assign(new Error('failed'), { cause: new AggregateError([refused()], '') })],
])('%s is an outage', async (_, error) => {
  const thrown = await toStoreError(() => Promise.reject(error)).catch((reason) => reason);
  expect(failureKindOf(thrown)).toBe('outage');
  expect(thrown.cause).toBe(error);
});

test('a defect of ours is of unknown kind, and what is a StoreError already passes as it is', async () => {
  const thrown = await toStoreError(() => Promise.reject(new TypeError('x is undefined'))).catch((reason) => reason);
  expect(failureKindOf(thrown)).toBe('unknown');
  const own = new StoreError('taken', { prismaCode: 'P2002' });
  expect(await toStoreError(() => Promise.reject(own)).catch((reason) => reason)).toBe(own);
});
