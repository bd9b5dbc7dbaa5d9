import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue, createEntryWorker, type EntryQueue, type EntryWorker } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend } from '@opm/testkit';
import fc from 'fast-check';
import type { EntryInput } from '../apps/ingress/src/ingest/call.js';
import { AdmissionHistory, type AdmittedEntry, toKey } from './admission-history.js';
import { search } from './search.js';
import { createStepwiseIngress, createStepwiseWorker, QUEUE_DOWN, type Step } from './stepwise-pipeline.js';

const INGRESSES = 3;
const CUSTOMERS = ['a', 'b'];
/** Projects per run; both have these customers. */
const PROJECTS = 2;
const RUNS = { min: 20, max: 1_000, ms: 4_000 };

/** An entry without names is an erasure. */
type Post = { ingress: number; project: number; entries: { customerId: string; names: ('email' | 'phone')[] }[] };
type Answer = PromiseSettledResult<{ existed: boolean }>;
type Outcome = { history: AdmissionHistory; answers: Map<EntryInput, Answer>; busyProjectId: number };

const entry = fc.record({
  customerId: fc.constantFrom(...CUSTOMERS),
  names: fc.subarray<'email' | 'phone'>(['email', 'phone']),
});
const post = fc.record({
  ingress: fc.nat(INGRESSES - 1),
  project: fc.nat(PROJECTS - 1),
  entries: fc.array(entry, { minLength: 1, maxLength: 2 }),
});
/** Each partner waits for the answers to a post before it sends the next one. */
const partners = fc.array(fc.array(post, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 4 });
/** The workers that take a chunk: none if it is not enqueued, both if its job runs twice. */
const takers = fc.infiniteStream(fc.subarray([0, 1]));
/** Whether the next settle or release call fails. */
const failures = fc.infiniteStream(fc.constantFrom(false, false, false, true));

/** Runs a step, and lets everything that it unblocks run until the next step; then the scheduler chooses again. */
async function untilNextStep(take: () => Promise<void>): Promise<void> {
  await take();
  for (let turn = 0; turn < 5; turn++) await nextTurn();
}

const toStep =
  (scheduler: fc.Scheduler): Step =>
  (label, call) =>
    new Promise((resolve, reject) => {
      scheduler.scheduleSequence([{ label, builder: () => call().then(resolve, reject) }], untilNextStep);
    });

/** If a busy machine made the ingress give up on a chunk, the run proves nothing about the order of steps. */
const isLate = (answer: Answer) =>
  answer.status === 'rejected' && /no answer within/.test(answer.reason.cause?.message);

describe.each(BACKENDS)('three ingresses and two workers with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let queues: EntryQueue[];
  let worker: EntryWorker;
  let firstProjectId = 1;
  /** Whether a call that reduces the count failed in this run or before; the count may then be too high. */
  let hasFailedToCount = false;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, poolSize: 4, applicationName: 'test' });
    const options = { ...backend, shards: 1, signal: new AbortController().signal, onError: () => {} };
    queues = await Promise.all(Array.from({ length: INGRESSES }, () => createEntryQueue(options)));
    // This worker only settles, it takes no jobs.
    const [process, deadLetterInvalid] = [async () => {}, async () => {}];
    const callbacks = { process, deadLetterInvalid, onPostponed: () => {}, onRetry: () => {} };
    worker = await createEntryWorker({ ...options, ...callbacks, concurrency: 1, lockMs: 20_000 });
  });
  afterAll(async () => {
    await Promise.all([...queues, worker, store].map((it) => it.close()));
    await backend.drop();
  });

  /** Runs the drawn partners once, with new projects. */
  async function run(
    scheduler: fc.Scheduler,
    drawn: Post[][],
    fates: Iterator<number[]>,
    failing: Iterator<boolean>,
  ): Promise<Outcome> {
    firstProjectId += PROJECTS;
    const history = new AdmissionHistory();
    const answers: Outcome['answers'] = new Map();
    const jobs: Promise<void>[] = [];
    const step = toStep(scheduler);
    const context = { worker, store, history, step, isNextFailing: () => failing.next().value };
    const workers = [0, 1].map(() => createStepwiseWorker(context));
    const nextTakers = () => workers.filter((_worker, n) => fates.next().value.includes(n));
    const busyProjectId = firstProjectId + PROJECTS - 1;
    const ingresses = queues.map((queue) =>
      createStepwiseIngress({ ...context, queue, nextTakers, busyProjectId, jobs }),
    );
    const sender = { startedAt: performance.now(), bodyBytes: 0, socket: { destroyed: false } };
    let values = 0;
    const partnersDone = drawn.map(async (posts) => {
      for (const { ingress, project, entries: given } of posts) {
        const requester = { ...sender, projectId: firstProjectId + project };
        await step('post', async () => {});
        const entries = given.map(
          ({ customerId, names }): EntryInput =>
            names.length === 0
              ? { customerId, erase: true }
              : { customerId, fields: Object.fromEntries(names.map((name) => [name, `value ${values++}`])) },
        );
        const settled = await Promise.allSettled(entries.map((it) => ingresses[ingress]?.(requester, it)));
        entries.forEach((it, i) => void answers.set(it, settled[i] as Answer));
      }
    });
    await scheduler.waitFor(Promise.all(partnersDone).then(() => Promise.all(jobs)));
    return { history, answers, busyProjectId };
  }

  /**
   * Checks that nothing is in flight: the rows are those of the entries in order, and no other claims or counts are
   * left.
   */
  async function checkStores(history: AdmissionHistory): Promise<void> {
    const rows = new Map<string, object>();
    const customers = Array.from({ length: PROJECTS }, (_, project) =>
      CUSTOMERS.map((customerId) => ({ projectId: firstProjectId + project, customerId })),
    ).flat();
    for (const customer of customers) {
      const row = await store.customers.find(customer.projectId, customer.customerId);
      const { email, phone } = row ?? {};
      if (row) rows.set(toKey(customer), { ...(email && { email }), ...(phone && { phone }) });
    }
    expect(rows).toEqual(history.rows());
    const [queue] = queues as [EntryQueue];
    const backlog = (await queue.load()).entries;
    const { admitted } = await queue.admit(0, customers);
    await queue.release(0, admitted);
    expect(admitted.map(({ previous }) => previous?.version)).toEqual(
      customers.map((customer) => history.claims.get(toKey(customer))),
    );
    expect((await queue.load()).entries).toBe(backlog);
    hasFailedToCount ||= history.failedToCountDown;
    if (!hasFailedToCount) expect(backlog).toBe(0);
  }

  test('whatever the order and failures of the steps, answers, rows and claims equal those of a single process', async () => {
    async function check(...drawn: Parameters<typeof run>): Promise<void> {
      const outcome = await run(...drawn);
      fc.pre(![...outcome.answers.values()].some(isLate));
      checkAnswers(outcome);
      checkPriorities(outcome);
      await checkStores(outcome.history);
    }
    await search(fc.asyncProperty(fc.scheduler(), partners, takers, failures, check), RUNS);
  });
});

function checkAnswers({ history: { known }, answers }: Outcome): void {
  const versions = known.map(({ version }) => version);
  expect(versions).toEqual([...new Set(versions)].sort((a, b) => a - b));
  expect(answers.size).toBe(known.length);
  // The model does not know when the look-up found an entry that was refused though it is queued.
  const ambiguous = new Set(known.filter((it) => it.isReleased && it.isQueued).map(({ key }) => key));
  for (const { key, entry, existed, version, isReleased } of known) {
    const due = isReleased
      ? { status: 'rejected', reason: QUEUE_DOWN }
      : { status: 'fulfilled', value: { existed: ambiguous.has(key) ? expect.any(Boolean) : existed, version } };
    expect(answers.get(entry)).toEqual(due);
  }
  for (const key of new Set(known.map((it) => it.key))) {
    const own = known.filter((it) => it.key === key);
    const isSure = !own.some(({ isReleased }) => isReleased);
    for (const life of toLives(own)) {
      const created = life.filter(({ entry }) => isCreated(answers.get(entry)));
      const mayBeNone = !isSure || life.some(({ isUnknown }) => isUnknown);
      expect(created).toHaveLength(mayBeNone ? Math.min(created.length, 1) : 1);
    }
  }
}

function checkPriorities({ history, busyProjectId }: Outcome): void {
  for (const [projectId, priorities] of history.priorities) {
    expect([...priorities]).toEqual([projectId === busyProjectId ? 1 : 0]);
  }
}

const isCreated = (answer: Answer | undefined) => answer?.status === 'fulfilled' && !answer.value.existed;

/** A customer's entries, split at erasures. */
function toLives(own: AdmittedEntry[]): AdmittedEntry[][] {
  const lives: AdmittedEntry[][] = [[]];
  for (const it of own) {
    if (it.entry.erase) lives.push([]);
    else lives.at(-1)?.push(it);
  }
  return lives.filter(({ length }) => length > 0);
}
