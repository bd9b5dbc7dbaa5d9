import type { CustomerEntry } from '@opm/core';
import { createEntryQueue, type EntryQueue, toPriority } from '@opm/queue';
import type { Place } from './servers.js';

/** As many as the ingress puts into one job at most. */
export const CHUNK = 200;

/** The project's queue, as the ingress has it. */
export function createProducer(place: Place): Promise<EntryQueue> {
  return createEntryQueue({ ...place, shards: 1, signal: new AbortController().signal, onError: console.error });
}

/** Versions, claims and priority come from admission, so that it is as if the ingress had done it. */
export async function enqueueAsIngress(
  queue: EntryQueue,
  chunk: CustomerEntry[],
  projectOf: (i: number) => number = () => 1,
): Promise<void> {
  const asking = chunk.map((entry, i) => ({ ...entry, projectId: projectOf(i) }));
  const { admitted, backlogs } = await queue.admit(0, asking);
  const entries = asking.map((entry, i) => ({ ...entry, version: admitted[i]?.version ?? 0 }));
  await queue.enqueue(0, { entries }, toPriority(Math.max(0, ...backlogs.values())));
}
