import { MIN_SHORT_BACKLOG, ShortBacklog, shardOf, toPriority } from '@opm/queue';
import { LRUCache } from 'lru-cache';

/** How long a project's last known backlog counts. Admission reports it only for every 16th entry. */
const BACKLOG_TTL_MS = 30_000;
const MAX_BACKLOGS = 30_000;
/**
 * For this time after an erasure, entries of its customer are enqueued only after their look-up. Otherwise a worker
 * could change the row before the look-up reads it.
 */
const ERASED_TTL_MS = 60_000;
const MAX_ERASED = 10_000;

export type ChunkPartitions = ReturnType<typeof createChunkPartitions>;

/** Entries that may be admitted together: of one shard, and either all or none wait for a look-up. */
export type ChunkPartition = { shard: number; waitsForLookUp: boolean };

type Assignable = { customerId: string; erase?: true };

/** Encodes a `ChunkPartition` as a number, as a partition of `GroupCommit`. */
export function createChunkPartitions(shards: number) {
  /**
   * Backlogs by project and shard. Those that always have priority 0 are not stored. Read with `peek`: each entry reads
   * one, and the order of use is not needed.
   */
  const backlogs = new LRUCache<number, number>({ max: MAX_BACKLOGS, ttl: BACKLOG_TTL_MS, ttlResolution: 100 });
  const shortBacklogs = Array.from({ length: shards }, () => new ShortBacklog());
  const backlogKey = (projectId: number, shard: number) => projectId * shards + shard;
  /** Customers whose erasure this process received in the last `ERASED_TTL_MS`. */
  const erased = new LRUCache<string, true>({ max: MAX_ERASED, ttl: ERASED_TTL_MS, ttlResolution: 1_000 });
  const isErased = (projectId: number, customerId: string) =>
    erased.size > 0 && erased.has(`${projectId}:${customerId}`);

  function assign(projectId: number, { customerId, erase }: Assignable): number {
    const shard = shardOf(projectId, customerId, shards);
    if (erase) erased.set(`${projectId}:${customerId}`, true);
    const waitsForLookUp = isErased(projectId, customerId) ? 1 : 0;
    return waitsForLookUp * shards + shard;
  }

  return {
    /** Assigns an entry to a partition. Remembers an erasure. */
    assign,

    /**
     * Assigns entries of one shard to a common partition. If one of them waits for a look-up, all do: the partitions
     * that wait have higher numbers.
     */
    assignTogether: (projectId: number, entries: Assignable[]): number =>
      Math.max(...entries.map((entry) => assign(projectId, entry))),

    fromPartition(partition: number): ChunkPartition {
      return { shard: partition % shards, waitsForLookUp: partition >= shards };
    },

    /** The priority of a project's entries in the partition, see `toPriority`. */
    priorityOf(projectId: number, partition: number): number {
      const shard = partition % shards;
      return toPriority(backlogs.peek(backlogKey(projectId, shard)) ?? 0, shortBacklogs[shard]?.longest);
    },

    isErased,

    /** Updates the priorities from the projects' backlogs in a shard. */
    onBacklogs(shard: number, ofProjects: Map<number, number>): void {
      for (const [projectId, backlog] of ofProjects) {
        shortBacklogs[shard]?.note(backlog);
        if (backlog > MIN_SHORT_BACKLOG) backlogs.set(backlogKey(projectId, shard), backlog);
        else backlogs.delete(backlogKey(projectId, shard));
      }
    },
  };
}
