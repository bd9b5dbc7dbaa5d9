import type { CustomerEntry } from '@opm/core';
import { startTextbookWorker } from '../contenders.js';
import { openTextbookQueue } from '../queues.js';
import type { Place } from '../servers.js';
import { slice } from './entries.js';
import { stopCleanly, timeDrain } from './time-drain.js';

/** Persists the entries with the textbook worker. @returns seconds, without what it takes to start and to fill the queue */
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
