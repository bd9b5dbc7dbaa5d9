import type { CustomerEntry } from '@opm/core';
import { createEntryQueue, type EntryQueue, openDashboardQueues, parseChunk, toPriority } from '@opm/queue';
import { waitFor } from '@opm/testkit';
import { type Job, Queue } from 'bullmq';
import { Redis } from 'ioredis';
import type { Place } from './servers.js';

/** A contender's queue, opened from outside. */
export type OpenQueue = { queue: Queue; entriesOf(job: Job): number; close(): Promise<void> };

const PAGE = 500;

export async function openProjectQueue(place: Place): Promise<OpenQueue> {
  const signal = new AbortController().signal;
  const config = { ...toQueueConfig(place), shards: 1 };
  const { queues, close } = await openDashboardQueues({ ...config, signal, onError: console.error });
  const [queue] = queues;
  if (!queue) throw new Error('the dashboard opened no queue');
  return { queue, entriesOf, close };
}

/** Without the URL of Redis if the queue is in PostgreSQL. */
function toQueueConfig({ redisUrl, ...others }: Place) {
  return others.queue === 'postgres' ? others : { ...others, redisUrl };
}

const entriesOf = ({ data }: Job) => parseChunk(data).entries.length;

export async function openTextbookQueue({ redisUrl, prefix }: Place): Promise<OpenQueue> {
  const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
  const queue = new Queue('textbook', { connection, prefix });
  return {
    queue,
    entriesOf: () => 1,
    async close() {
      await queue.close();
      connection.disconnect();
    },
  };
}

/** Counts the entries of all waiting jobs, which it reads: a contender's own counts prove nothing. */
export async function countWaiting({ queue, entriesOf }: Pick<OpenQueue, 'queue' | 'entriesOf'>): Promise<number> {
  let entries = 0;
  for (let first = 0; ; first += PAGE) {
    const jobs = await queue.getJobs(['waiting', 'prioritized'], first, first + PAGE - 1, true);
    if (jobs.length === 0) return entries;
    for (const job of jobs) entries += entriesOf(job);
  }
}

/** The same for all shards of the project. */
export async function countInShards(place: Place): Promise<number> {
  const { shards = 1 } = place;
  const signal = new AbortController().signal;
  const { queues, close } = await openDashboardQueues({
    ...toQueueConfig(place),
    shards,
    signal,
    onError: console.error,
  });
  const counts = queues.slice(0, shards).map((queue) => countWaiting({ queue, entriesOf }));
  return (await Promise.all(counts).finally(close)).reduce((sum, count) => sum + count, 0);
}

export async function waitUntilEmpty({ queue }: OpenQueue): Promise<void> {
  const isEmpty = async () =>
    Object.values(await queue.getJobCounts('waiting', 'active', 'delayed', 'prioritized')).every(
      (count) => count === 0,
    );
  await waitFor(isEmpty, { description: 'an empty queue', timeoutMs: 900_000 });
}

/** The most entries that the ingress puts into one job. */
export const CHUNK = 200;

/** The project's queue, opened as the ingress does. */
export function createProducer(place: Place): Promise<EntryQueue> {
  return createEntryQueue({ ...place, shards: 1, signal: new AbortController().signal, onError: console.error });
}

/** Admits and enqueues a chunk as the ingress does, with versions, claims and a priority. */
export async function enqueueAsIngress(
  queue: EntryQueue,
  chunk: CustomerEntry[],
  projectOf: (i: number) => number = () => 1,
): Promise<void> {
  const requests = chunk.map((entry, i) => ({ ...entry, projectId: projectOf(i) }));
  const { admitted, backlogs } = await queue.admit(0, requests);
  const entries = requests.map((entry, i) => ({ ...entry, version: admitted[i]?.version ?? 0 }));
  await queue.enqueue(0, { entries }, toPriority(Math.max(0, ...backlogs.values())));
}
