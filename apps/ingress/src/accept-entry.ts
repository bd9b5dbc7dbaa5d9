import type { Entry } from '@opm/contract';
import { GroupCommit } from '@opm/core';
import { type EntryQueue, shardOf } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import type { FindExisting } from './find-existing.js';

/** Resolves once the entry is queued durably. @throws Fault QUEUE_UNAVAILABLE: it was not accepted, sending it again is safe */
export type AcceptEntry = (projectId: number, entry: Entry) => Promise<Verdict>;

/** Whether the customer was known before this entry: the difference between 202 and 201. */
export type Verdict = { existed: boolean };

export type AcceptEntryDeps = {
  queue: Pick<EntryQueue, 'admit' | 'release' | 'enqueue'>;
  findExisting: FindExisting;
  shards: number;
  maxEntries: number;
  maxInFlight: number;
  chunkEntries: { observe(entries: number): void };
  logger: Logger;
};

/** Concurrent entries of one project and shard become one chunk: one admission, one look-up, one job. */
export function createAcceptEntry(deps: AcceptEntryDeps): AcceptEntry {
  const { queue, findExisting, shards, maxEntries, maxInFlight, chunkEntries, logger } = deps;

  const chunks = new GroupCommit<number, Entry, Verdict>({
    commit: (lane, entries) => acceptChunk(Math.floor(lane / shards), lane % shards, entries),
    maxBatch: maxEntries,
    maxInFlight,
  });

  async function acceptChunk(projectId: number, shard: number, entries: Entry[]): Promise<Verdict[]> {
    chunkEntries.observe(entries.length);
    const admitted = await queue.admit(shard, projectId, entries);
    try {
      // After the admission, or another ingress could slip in between; before the enqueue, or we could see our own row.
      const unclaimed = admitted.filter(({ previous }) => !previous);
      const existing = await findExisting(projectId, unclaimed);
      const jobId = await queue.enqueue(shard, {
        v: 1,
        projectId,
        entries: entries.map(({ customerId, fields }, i) => ({
          customerId,
          version: admitted[i]?.version ?? Number.NaN,
          fields,
        })),
      });
      logger.debug({ jobId, projectId, shard, entries: entries.length }, 'chunk queued');
      return admitted.map(({ customerId, previous }) => ({
        existed: previous ? !previous.erased : (existing?.has(customerId) ?? true),
      }));
    } catch (error) {
      await queue.release(shard, projectId, admitted).catch((releaseError) => {
        logger.warn(
          { err: releaseError, entries: entries.length },
          'claims could not be released: retries will be 202',
        );
      });
      throw error;
    }
  }

  return (projectId, entry) => chunks.run(projectId * shards + shardOf(projectId, entry.customerId, shards), entry);
}
