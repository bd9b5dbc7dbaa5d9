import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { CustomerQueues, type Task } from './customer-queues.js';

const LIMITS = { maxEntries: 4, maxBytes: 40 };

const waiting = { isSettled: false };
const toTask = (customerId: string, entry?: string): Task => ({
  customerId,
  call: waiting,
  ...(entry !== undefined && { entry }),
});

test('an erasure is sent alone, between the entries before and after it', () => {
  const queues = new CustomerQueues<Task>(LIMITS);
  const [before, erasure, after, other] = [toTask('a', '1'), toTask('a'), toTask('a', '2'), toTask('b', '3')];
  for (const task of [before, erasure, after, other]) queues.add(task);
  expect(queues.take()).toEqual([before, other]);
  expect(queues.take()).toEqual([]);
  queues.release([before, other]);
  expect(queues.take()).toEqual([erasure]);
  queues.release([erasure]);
  expect(queues.take()).toEqual([after]);
});

test('a settled task is dropped and delays no other task', () => {
  const queues = new CustomerQueues<Task>(LIMITS);
  const given = { customerId: 'a', entry: '1', call: { isSettled: true } };
  queues.add(given);
  queues.add({ ...given, customerId: 'b' });
  queues.add(toTask('a', '2'));
  expect(queues.take()).toEqual([toTask('a', '2')]);
});

describe('whatever is added and released in whatever order:', () => {
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ customer: fc.constantFrom('a', 'b', 'c'), size: fc.nat(14) }) },
    { weight: 1, arbitrary: fc.record({ customer: fc.constantFrom('a', 'b', 'c'), size: fc.constant(-1) }) },
    { weight: 2, arbitrary: fc.constant('take' as const) },
    { weight: 2, arbitrary: fc.constant('release' as const) },
    { weight: 1, arbitrary: fc.constant('refuse' as const) },
  );

  test('nothing is lost or doubled, customers keep their order, and no request is too large', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const queues = new CustomerQueues<Task>(LIMITS);
        const added: Task[] = [];
        const done: Task[] = [];
        const underWay: Task[][] = [];
        const take = () => {
          const tasks = queues.take();
          if (tasks.length === 0) return false;
          const customers = (all: Task[]) => new Set(all.map(({ customerId }) => customerId));
          for (const { customerId } of tasks) expect(customers(underWay.flat()).has(customerId)).toBe(false);
          if (tasks.some(({ entry }) => entry === undefined)) expect(tasks).toHaveLength(1);
          const bytes = Buffer.byteLength(`[${tasks.map(({ entry }) => entry).join()}]`);
          expect(tasks.length).toBeLessThanOrEqual(LIMITS.maxEntries);
          expect(bytes).toBeLessThanOrEqual(LIMITS.maxBytes);
          underWay.push(tasks);
          return true;
        };
        const release = (most = Number.POSITIVE_INFINITY) => {
          const tasks = underWay.shift();
          if (!tasks) return false;
          done.push(...tasks.slice(0, most));
          queues.release(tasks, tasks.slice(most));
          return true;
        };
        for (const given of steps) {
          if (given === 'take') take();
          else if (given === 'release') release();
          else if (given === 'refuse') release(1);
          else {
            const task = given.size < 0 ? toTask(given.customer) : toTask(given.customer, 'ü'.repeat(given.size));
            added.push(task);
            queues.add(task);
          }
        }
        while (release() || take());
        for (const customer of ['a', 'b', 'c']) {
          const of = (tasks: Task[]) => tasks.filter(({ customerId }) => customerId === customer);
          expect(of(done).every((task, i) => task === of(added)[i])).toBe(true);
        }
        expect(done).toHaveLength(added.length);
      }),
    );
  });
});
