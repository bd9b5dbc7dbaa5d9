import type { CustomerEntry } from '@opm/core';
import { startProjectWorker } from '../contenders.js';
import { CHUNK, createProducer, enqueueAsIngress } from '../producer.js';
import { type OpenQueue, openProjectQueue } from '../queues.js';
import type { Place } from '../servers.js';
import { slice } from './entries.js';
import { stopCleanly, timeDrain } from './time-drain.js';

/** Persists the entries with a worker of this project. @returns seconds, without what it takes to start and to fill the queue */
export const persistWithWorker = (place: Place, entries: CustomerEntry[]): Promise<number> =>
  persistWithWorkers(place, entries, 1);

/** With several of them. */
export async function persistWithWorkers(place: Place, entries: CustomerEntry[], count: number): Promise<number> {
  const opened = await fillQueue(place, entries);
  const workers = await Promise.all(Array.from({ length: count }, () => startProjectWorker(place)));
  const seconds = await timeDrain(opened);
  await Promise.all(workers.map(stopCleanly));
  await opened.close();
  return seconds;
}

/** Has them wait in a queue that is paused. */
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
