import type { CustomerEntry } from '@opm/core';
import { createEntryQueue, type EntryQueue } from '@opm/queue';
import { startProjectWorker } from '../contenders.js';
import { openProjectQueue } from '../queues.js';
import type { Place } from '../servers.js';
import { slice } from './entries.js';
import { stopCleanly, timeDrain } from './time-drain.js';

/** As many as the ingress puts into one job at most. */
const CHUNK = 200;

/** Persists the entries with a worker of this project. @returns seconds, without what it takes to start and to fill the queue */
export async function persistWithWorker(place: Place, entries: CustomerEntry[]): Promise<number> {
  const signal = new AbortController().signal;
  const producer = await createEntryQueue({ ...place, shards: 1, signal, onError: console.error });
  const opened = await openProjectQueue(place);
  await opened.queue.pause();
  for (const some of slice([...slice(entries, CHUNK)], 50)) {
    await Promise.all(some.map((chunk) => enqueueAsIngress(producer, chunk)));
  }
  const worker = await startProjectWorker(place);
  const seconds = await timeDrain(opened);
  await stopCleanly(worker);
  await producer.close();
  await opened.close();
  return seconds;
}

/** Versions and claims come from admission, so that there is something to settle. */
async function enqueueAsIngress(queue: EntryQueue, chunk: CustomerEntry[]): Promise<void> {
  const { admitted, backlog } = await queue.admit(0, 1, chunk);
  const entries = chunk.map((entry, i) => ({ ...entry, version: admitted[i]?.version ?? 0 }));
  await queue.enqueue(0, { v: 1, projectId: 1, entries }, backlog);
}
