import type { CustomerEntry } from '@opm/core';
import type { TestProcess } from '@opm/testkit';
import { startProjectWorker, startTextbookWorker } from '../contenders.js';
import {
  CHUNK,
  createProducer,
  enqueueAsIngress,
  type OpenQueue,
  openProjectQueue,
  openTextbookQueue,
  waitUntilEmpty,
} from '../queues.js';
import type { Place } from '../servers.js';

/**
 * Persists the entries with one worker of this project.
 * @returns seconds, without starting the worker and filling the queue
 */
export const persistWithWorker = (place: Place, entries: CustomerEntry[]): Promise<number> =>
  persistWithWorkers(place, entries, 1);

/** The same with several workers. */
export async function persistWithWorkers(place: Place, entries: CustomerEntry[], count: number): Promise<number> {
  const opened = await fillQueue(place, entries);
  const workers = await Promise.all(Array.from({ length: count }, () => startProjectWorker(place)));
  const seconds = await timeDrain(opened);
  await Promise.all(workers.map(stopCleanly));
  await opened.close();
  return seconds;
}

/** Enqueues the entries into a paused queue. */
export async function fillQueue(place: Place, entries: CustomerEntry[], chunkSize = CHUNK): Promise<OpenQueue> {
  const producer = await createProducer(place);
  const opened = await openProjectQueue(place);
  await opened.queue.pause();
  for (const some of slice([...slice(entries, chunkSize)], 50)) {
    await Promise.all(some.map((chunk) => enqueueAsIngress(producer, chunk)));
  }
  await producer.close();
  return opened;
}

/**
 * Persists the entries with the textbook worker.
 * @returns seconds, without starting the worker and filling the queue
 */
export async function persistWithTextbook(place: Place, entries: CustomerEntry[]): Promise<number> {
  const opened = await openTextbookQueue(place);
  await opened.queue.pause();
  for (const some of slice(entries, 1_000)) await opened.queue.addBulk(some.map((data) => ({ name: 'entry', data })));
  const worker = await startTextbookWorker(place);
  const seconds = await timeDrain(opened);
  await stopCleanly(worker);
  await opened.close();
  return seconds;
}

export function* slice<T>(items: T[], size: number): Generator<T[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size);
}

export async function stopCleanly(worker: TestProcess): Promise<void> {
  const { code } = await worker.stop();
  if (code !== 0) throw new Error(`the worker exited with code ${code}:\n${worker.output()}`);
}

/**
 * Resumes the queue and waits until it is empty.
 * @returns seconds
 */
export async function timeDrain(opened: OpenQueue): Promise<number> {
  const start = performance.now();
  await opened.queue.resume();
  await waitUntilEmpty(opened);
  return (performance.now() - start) / 1_000;
}
