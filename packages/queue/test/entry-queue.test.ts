import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS, type Backend, waitFor } from '@opm/testkit';
import type { JobsOptions } from 'bullmq';
import {
  type Chunk,
  createEntryQueue,
  createEntryWorker,
  type EntryQueue,
  type EntryWorker,
  type EntryWorkerOptions,
  openDashboardQueues,
  Postponed,
} from '../src/index.js';

const chunkOf = (customerId: string): Chunk => ({
  entries: [{ projectId: 1, customerId, version: 1, fields: { email: 'a@example.com' } }],
});
const options = { signal: new AbortController().signal, onError: () => {} };

describe.each(BACKENDS)('the entry queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let queue: EntryQueue;

  beforeAll(async () => {
    backend = await createBackend();
    queue = await createEntryQueue({ ...backend, ...options, shards: 2 });
  });
  afterAll(async () => {
    await queue.close();
    await backend.drop();
  });

  // A worker left open by a failed test would take the jobs of the next test.
  const started: EntryWorker[] = [];
  afterEach(() => Promise.all(started.splice(0).map((worker) => worker.close())));

  const startWorker = async (process: EntryWorkerOptions['process']) => {
    const deadLetters: [unknown, string][] = [];
    const retried: number[] = [];
    const counts = { postponed: 0 };
    const worker = await createEntryWorker({
      ...backend,
      ...options,
      shards: 2,
      concurrency: 10,
      lockMs: 20_000,
      process,
      onPostponed: () => void counts.postponed++,
      onRetry: (_error, { attempt }) => retried.push(attempt),
      deadLetterInvalid: async (data, error) => void deadLetters.push([data, error.message]),
    });
    worker.start();
    started.push(worker);
    return { ...worker, deadLetters, retried, counts };
  };

  test('a chunk reaches a worker unchanged, with its shard, and leaves no job', async () => {
    const chunk = chunkOf('😀 "quoted" \\ é');
    await queue.enqueue(1, chunk);
    const taken: [Chunk, number][] = [];
    const worker = await startWorker(async (data, { shard }) => void taken.push([data, shard]));
    await waitFor(() => taken.length > 0, { description: 'the chunk' });
    await worker.close();
    expect(taken).toEqual([[chunk, 1]]);
    const { queues, close } = await openDashboardQueues({ ...backend, ...options, shards: 2 });
    const counts = await queues[1]?.getJobCounts();
    await close();
    expect(Object.values(counts ?? { none: 1 }).every((count) => count === 0)).toBe(true);
  });

  test('a job that throws is retried until it succeeds', async () => {
    await queue.enqueue(0, chunkOf('retried'));
    let attempts = 0;
    const worker = await startWorker(async () => {
      if (++attempts < 3) throw new Error('not now');
    });
    await waitFor(() => attempts === 3, { description: 'the third attempt' });
    await worker.close();
    expect(worker).toMatchObject({ retried: [1, 2], deadLetters: [] });
  });

  test('a postponed job returns to the queue, uses up no attempt, and is processed after the pause', async () => {
    await queue.enqueue(0, chunkOf('postponed'));
    let isPaused = false;
    const attempts: number[] = [];
    const worker = await startWorker(async (_chunk, { attempt }) => {
      attempts.push(attempt);
      if (attempts.length > 1 && !isPaused) return;
      isPaused = true;
      worker.pause();
      throw new Postponed('not now');
    });
    const jobs = async () => (await worker.backlog()).jobs;
    // BullMQ may take the job once more if it was already waiting for one when it was paused.
    await waitFor(async () => attempts.length > 0 && (await jobs()).waiting === 1, {
      description: 'the job to be back',
    });
    expect((await worker.backlog()).oldestMs).toBeGreaterThan(0);
    isPaused = false;
    worker.resume();
    await waitFor(async () => Object.values(await jobs()).every((count) => count === 0), { description: 'the end' });
    expect((await worker.backlog()).oldestMs).toBe(0);
    await worker.close();
    expect(new Set(attempts)).toEqual(new Set([1]));
    expect(worker).toMatchObject({ retried: [], counts: { postponed: attempts.length - 1 } });
  });

  test('a job that is postponed with a delay starts again after it, and uses up no attempt', async () => {
    await queue.enqueue(0, chunkOf('later'));
    const begun: [attempt: number, start: number, at: number][] = [];
    const worker = await startWorker(async (_chunk, { attempt, start }) => {
      begun.push([attempt, start, Date.now()]);
      if (begun.length === 1) throw new Postponed('not now', { delayMs: 300 });
    });
    await waitFor(() => begun.length === 2, { description: 'the second start' });
    await worker.close();
    expect(begun.map(([attempt, start]) => [attempt, start])).toEqual([
      [1, 1],
      [1, 2],
    ]);
    expect((begun[1]?.[2] ?? 0) - (begun[0]?.[2] ?? 0)).toBeGreaterThanOrEqual(290);
    expect(worker).toMatchObject({ retried: [], counts: { postponed: 1 } });
  });

  test.each([0, 1, 3])('the oldest job is found among newer ones of all priorities: %s', async (priority) => {
    const dashboard = await openDashboardQueues({ ...backend, ...options, shards: 2 });
    const hour = 3_600_000;
    const add = (jobId: string, given: JobsOptions) =>
      dashboard.queues[0]?.add('chunk', {}, { jobId: `${priority} ${jobId}`, removeOnComplete: true, ...given });
    await add('old', { priority, timestamp: Date.now() - hour });
    for (const other of [0, 1, 2, 3]) for (const n of [1, 2]) await add(`${other} ${n}`, { priority: other });
    const { jobs, oldestMs } = await queue.readBacklog();
    expect(jobs).toMatchObject({ waiting: priority === 0 ? 3 : 2, prioritized: priority === 0 ? 6 : 7 });
    expect(Math.round(oldestMs / hour)).toBe(1);
    await dashboard.queues[0]?.drain();
    expect((await queue.readBacklog()).oldestMs).toBe(0);
    await dashboard.close();
  });

  test('invalid job data is dead-lettered with the reason, and leaves no failed job', async () => {
    const dashboard = await openDashboardQueues({ ...backend, ...options, shards: 2 });
    await dashboard.queues[0]?.add('chunk', { v: 1, odd: true }, { attempts: 5 });
    const worker = await startWorker(async () => {});
    await waitFor(() => worker.deadLetters.length === 1, { description: 'the dead letter' });
    await worker.close();
    expect(worker.deadLetters).toEqual([
      [{ v: 1, odd: true }, expect.stringMatching(/^job data is not a chunk: data must/)],
    ]);
    expect(await dashboard.queues[0]?.getFailedCount()).toBe(0);
    await dashboard.close();
  });
});
