import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ANSWERS, Fault, type FaultCode } from '@opm/contract';
import { createEntryQueue, type EntryQueue } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import { ANSWER_TIMEOUT_MS, BACKENDS, type Backend, startProxy, type TcpProxy, waitFor } from '@opm/testkit';
import fc from 'fast-check';
import { toTimeBudget } from '../src/config.js';
import { type Result, render } from '../src/http/reply.js';
import { createRunOnce, type KeyedCall, type RunOnce } from '../src/ingest/idempotency.js';
import { createPartitions } from '../src/ingest/partitions.js';

/** The minimum number of runs on any machine. A fast machine makes more until the time limit. */
const MIN_RUNS = 20;
const MORE_RUNS = { numRuns: 480, interruptAfterTimeLimit: 20_000 };

const logger = createLogger({ name: 'test', level: 'silent' });
const createWithin =
  (answerTimeoutMs: number) =>
  ({ idempotency }: Pick<EntryQueue, 'idempotency'>): RunOnce =>
    createRunOnce({
      idempotency,
      partitions: createPartitions(2),
      budget: toTimeBudget(answerTimeoutMs),
      maxPending: 1_000,
      onShed: () => {},
      logger,
    });
const create = createWithin(ANSWER_TIMEOUT_MS);

let keys = 0;
const fresh = (): KeyedCall => ({
  ...{ projectId: 1, key: `key ${keys++}`, method: 'POST', path: '/entry' },
  body: Buffer.from('a body'),
});

describe.each(BACKENDS)('running a request once per idempotency key, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let proxy: TcpProxy;
  let queues: EntryQueue[];
  let away: EntryQueue;

  beforeAll(async () => {
    backend = await createBackend();
    proxy = await startProxy(backend.redisUrl ?? backend.databaseUrl);
    const options = { shards: 2, signal: new AbortController().signal, onError: () => {} };
    queues = await Promise.all([1, 2].map(() => createEntryQueue({ ...backend, ...options })));
    const place = backend.redisUrl === undefined ? { databaseUrl: proxy.url } : { redisUrl: proxy.url };
    away = await createEntryQueue({ ...backend, ...options, ...place });
  });
  afterAll(async () => {
    await Promise.all([...queues, away].map((queue) => queue.close()));
    await proxy.close();
    await backend.drop();
  });

  const update = async () => ANSWERS.updateAccepted;
  const fault = (code: FaultCode) => new Fault(code);
  test.each<[string, boolean, Result | Result[]]>([
    ['a create', true, ANSWERS.created],
    ['an erasure', true, ANSWERS.erasureAccepted],
    ['an erasure of an unknown customer', true, fault('CUSTOMER_UNKNOWN')],
    ['an invalid body', false, fault('BODY_INVALID')],
    ['a body that is too large', false, fault('BATCH_TOO_LONG')],
    ['an entry above the limit', false, fault('RATE_LIMITED')],
    ['a batch with invalid entries', true, [ANSWERS.created, fault('BODY_INVALID'), ANSWERS.updateAccepted]],
    ['a batch of invalid entries', false, [fault('BODY_INVALID'), fault('BODY_MALFORMED')]],
    ['a batch with retryable entries', false, [ANSWERS.created, fault('QUEUE_UNAVAILABLE')]],
    ['a batch with entries above the limit', false, [ANSWERS.created, fault('RATE_LIMITED')]],
    ['a full queue', false, fault('QUEUE_FULL')],
    ['too many unknown keys', false, fault('TOO_MANY_UNKNOWN_KEYS')],
    ['a conflict', false, fault('IDEMPOTENCY_KEY_IN_USE')],
    ['a defect', false, fault('INTERNAL')],
  ])('%s is stored as the response of its key: %s', async (_what, isStored, result) => {
    const call = fresh();
    const [one, other] = queues.map(create) as [RunOnce, RunOnce];
    const operation = async () => {
      if (result instanceof Fault) throw result;
      return result;
    };
    expect(await one(call, operation)).toEqual({ result });
    const again = await other(call, update);
    expect(again).toEqual(isStored ? { replayed: render(result) } : { result: ANSWERS.updateAccepted });
  });

  const withLock = (lockMs: number, { idempotency: { begin, end } }: EntryQueue) =>
    create({ idempotency: { begin: (shard, projectId, requests) => begin(shard, projectId, requests, lockMs), end } });
  test('an attempt whose lock expired gets the response of the attempt that took the key over', async () => {
    const call = fresh();
    const [one, other] = queues as [EntryQueue, EntryQueue];
    const outcome = await withLock(1, one)(call, async () => {
      await waitFor(() => create(other)(call, update), { description: 'the lock to expire' });
      return ANSWERS.created;
    });
    expect(outcome).toEqual({ replayed: render(ANSWERS.updateAccepted) });
  });

  test('an attempt whose lock expired is a 409 while the attempt that took the key over is in flight', async () => {
    const call = fresh();
    const [one, other] = queues as [EntryQueue, EntryQueue];
    let finish = () => {};
    let second: ReturnType<RunOnce> | undefined;
    const isTaken = () =>
      new Promise<boolean>((resolve, reject) => {
        second = create(other)(call, () => {
          resolve(true);
          return new Promise((answer) => {
            finish = () => answer(ANSWERS.updateAccepted);
          });
        });
        second.catch(reject);
      });
    const first = withLock(1, one)(call, async () => {
      await waitFor(isTaken, { description: 'the lock to expire' });
      return ANSWERS.created;
    });
    await expect(first).rejects.toMatchObject({ code: 'IDEMPOTENCY_KEY_IN_USE' });
    finish();
    expect(await second).toEqual({ result: ANSWERS.updateAccepted });
  });

  test('an attempt that gets its lock so late that it may have expired does nothing', async () => {
    const [{ idempotency }] = queues as [EntryQueue];
    const now = performance.now.bind(performance);
    const clock = jest.spyOn(performance, 'now');
    const hung = create({
      idempotency: {
        ...idempotency,
        async begin(...call) {
          const keyState = await idempotency.begin(...call);
          clock.mockImplementation(() => now() + 9 * ANSWER_TIMEOUT_MS);
          return keyState;
        },
      },
    });
    const operation = jest.fn(update);
    const outcome = await hung(fresh(), operation).finally(() => clock.mockRestore());
    expect(outcome).toMatchObject({ result: { code: 'QUEUE_UNAVAILABLE' } });
    expect(operation).not.toHaveBeenCalled();
  });

  test('a key that is locked after its request was refused is unlocked at once', async () => {
    const call = fresh();
    const [{ idempotency }, other] = queues as [EntryQueue, EntryQueue];
    const given: ReturnType<typeof idempotency.begin>[] = [];
    let wake = () => {};
    const stall = new Promise<void>((resolve) => {
      wake = resolve;
    });
    const hung = createWithin(1_000)({
      idempotency: {
        ...idempotency,
        async begin(shard, projectId, requests) {
          await stall;
          given.push(idempotency.begin(shard, projectId, requests, 3_600_000));
          return given[0] as (typeof given)[number];
        },
      },
    });
    const operation = jest.fn(update);
    await expect(hung(call, operation)).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
    wake();
    await waitFor(() => given[0], { description: 'the key to be locked' });
    const isFree = () => create(other)(call, async () => ANSWERS.created).catch(() => undefined);
    expect(await waitFor(isFree, { description: 'the key to be unlocked' })).toEqual({ result: ANSWERS.created });
    expect(operation).not.toHaveBeenCalled();
  });

  const createWatched = ({ idempotency }: EntryQueue) => {
    const calls: Parameters<typeof idempotency.begin>[2][] = [];
    const begin: typeof idempotency.begin = (shard, projectId, requests, lockMs) => {
      calls.push(requests);
      return idempotency.begin(shard, projectId, requests, lockMs);
    };
    return { calls, runOnce: create({ idempotency: { ...idempotency, begin } }) };
  };

  test('requests of one project that wait for their keys do not delay those of another', async () => {
    const { calls, runOnce } = createWatched(queues[0] as EntryQueue);
    const many = Array.from({ length: 900 }, () => runOnce(fresh(), update));
    const one = runOnce({ ...fresh(), projectId: 2 }, update);
    await Promise.allSettled([...many, one]);
    expect(calls.slice(0, 3).map(({ length }) => length)).toEqual([200, 200, 1]);
  });

  test('the same body has a different fingerprint for each key and project', async () => {
    const { calls, runOnce } = createWatched(queues[0] as EntryQueue);
    const call = fresh();
    for (const it of [call, fresh(), { ...call, projectId: 2 }]) await runOnce(it, update);
    expect(new Set(calls.flat().map(({ fingerprint }) => fingerprint)).size).toBe(3);
  });

  test('an unknown error becomes INTERNAL with its cause, and unlocks the key', async () => {
    const call = fresh();
    const [one] = queues.map(create) as [RunOnce];
    const cause = new Error('unknown');
    const outcome = await one(call, () => Promise.reject(cause));
    expect(outcome).toMatchObject({ result: { code: 'INTERNAL', cause } });
    expect(await one(call, async () => ANSWERS.created)).toEqual({ result: ANSWERS.created });
  });

  test('a response that cannot be stored is still sent, and nothing runs again until the lock expires', async () => {
    const call = fresh();
    const cutOff = create(away);
    const operation = async () => {
      await proxy.cut();
      return ANSWERS.created;
    };
    expect(await cutOff(call, operation)).toEqual({ result: ANSWERS.created });
    await expect(cutOff(call, operation)).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
    await proxy.restore();
    const [one] = queues.map(create) as [RunOnce];
    await expect(one(call, operation)).rejects.toMatchObject({ code: 'IDEMPOTENCY_KEY_IN_USE' });
    await waitFor(() => away.check().then(() => true), { description: 'the queue to be back' });
  });

  const attempt = fc.record({
    ingress: fc.nat(1),
    key: fc.constantFrom('a', 'b'),
    body: fc.constantFrom('x', 'x', 'x', 'y'),
    fate: fc.constantFrom<Result[]>(
      ...[ANSWERS.created, fault('CUSTOMER_UNKNOWN'), fault('BODY_INVALID'), fault('QUEUE_FULL')],
    ),
  });
  type Attempt = typeof attempt extends fc.Arbitrary<infer T> ? T : never;

  test('in any order of steps through two ingresses, one attempt has an effect and all get its response', async () => {
    const property = fc.asyncProperty(
      fc.scheduler(),
      fc.array(attempt, { minLength: 2, maxLength: 8 }),
      async (scheduler, attempts) => {
        const world = keys++;
        const toCall = ({ key, body }: Pick<Attempt, 'key' | 'body'>) => ({
          ...fresh(),
          key: `${world} ${key}`,
          body: Buffer.from(body),
        });
        const step = createStep(scheduler);
        const ingresses = queues.map(({ idempotency: { begin, end } }) =>
          create({
            idempotency: {
              begin: (...args) => step('begin', () => begin(...args)),
              end: (...args) => step('end', () => end(...args)),
            },
          }),
        );
        const acting = new Set<string>();
        const overlaps: string[] = [];
        const run = async (it: Attempt) => {
          await step('send', async () => {});
          const outcome = await (ingresses[it.ingress] as RunOnce)(toCall(it), async () => {
            if (acting.has(it.key)) overlaps.push(it.key);
            acting.add(it.key);
            await step('run', async () => {});
            acting.delete(it.key);
            if (it.fate instanceof Fault) throw it.fate;
            return it.fate;
          }).catch((error: Fault) => error);
          return { ...it, outcome };
        };
        const done = await scheduler.waitFor(Promise.all(attempts.map(run)));
        fc.pre(!done.some(({ outcome }) => outcome instanceof Fault && outcome.code === 'QUEUE_UNAVAILABLE')); // too busy

        expect(overlaps).toEqual([]);
        for (const key of ['a', 'b'] as const) {
          const own = done.filter((it) => it.key === key);
          const effects = own.filter((it) => 'result' in it.outcome && hasEffect(it.outcome.result));
          expect(effects.length).toBeLessThanOrEqual(1);
          const [effect] = effects;
          for (const { body, outcome } of own) {
            if (!('replayed' in outcome)) continue;
            expect([outcome.replayed, body]).toEqual([effect && render(effect.fate), effect?.body]);
          }
          const [one] = ingresses as [RunOnce];
          const settle = (body: 'x' | 'y') =>
            scheduler.waitFor(one(toCall({ key, body }), update).catch(({ code }: Fault) => code));
          const last = effect?.body ?? 'x';
          expect(await settle(last)).toEqual(
            effect ? { replayed: render(effect.fate) } : { result: ANSWERS.updateAccepted },
          );
          expect(await settle(last === 'x' ? 'y' : 'x')).toBe('IDEMPOTENCY_KEY_REUSED');
        }
      },
    );
    await fc.assert(property, { numRuns: MIN_RUNS });
    await fc.assert(property, MORE_RUNS);
  });
});

const hasEffect = (result: Result | Result[]) => !(result instanceof Fault) || result.code === 'CUSTOMER_UNKNOWN';

/** Lets the code after a step run until it waits for its next step; then the scheduler picks again. */
function createStep(scheduler: fc.Scheduler) {
  const untilNextStep = async (take: () => Promise<void>) => {
    await take();
    for (let turn = 0; turn < 5; turn++) await nextTurn();
  };
  return <T>(label: string, call: () => Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      scheduler.scheduleSequence([{ label, builder: () => call().then(resolve, reject) }], untilNextStep);
    });
}
