import { shardOf, toPriority } from '@opm/queue';
import { LRUCache } from 'lru-cache';

/** For so long a project has the priority that its backlog gave it last. */
const PRIORITY_TTL_MS = 1_000;
const MAX_PRIORITIES = 10_000;
/** After an erasure, for so long, entries are enqueued after their look-up: a worker may be faster than that. */
const ERASED_TTL_MS = 60_000;
const MAX_ERASED = 10_000;

export type ChunkLanes = ReturnType<typeof createChunkLanes>;

/** What may be in one chunk: entries of one shard, of projects with backlogs about as long, that wait for a look-up or do not. */
export type ChunkLane = { shard: number; priority: number; waitsForLookUp: boolean };

/** Numbers for these. */
export function createChunkLanes(shards: number) {
  /** By project and shard; those that are 0 are left out. */
  const priorities = new LRUCache<number, number>({ max: MAX_PRIORITIES, ttl: PRIORITY_TTL_MS, ttlResolution: 100 });
  const placeOf = (projectId: number, shard: number) => projectId * shards + shard;
  /** Customers whose erasure came here a moment ago. */
  const erased = new LRUCache<string, true>({ max: MAX_ERASED, ttl: ERASED_TTL_MS, ttlResolution: 1_000 });
  const isErased = (projectId: number, customerId: string) =>
    erased.size > 0 && erased.has(`${projectId}:${customerId}`);

  return {
    /** The lane of an entry; an erasure is remembered. */
    toLane(projectId: number, { customerId, erase }: { customerId: string; erase?: true }): number {
      const shard = shardOf(projectId, customerId, shards);
      const priority = priorities.get(placeOf(projectId, shard)) ?? 0;
      if (erase) erased.set(`${projectId}:${customerId}`, true);
      const waitsForLookUp = isErased(projectId, customerId) ? 1 : 0;
      return (2 * priority + waitsForLookUp) * shards + shard;
    },

    fromLane(lane: number): ChunkLane {
      const rest = Math.floor(lane / shards);
      return { shard: lane % shards, priority: rest >> 1, waitsForLookUp: rest % 2 === 1 };
    },

    /**
     * A shard's chunks under way: so many of what waits for a look-up, and as many of the rest. So what waits for PostgreSQL keeps
     * nobody else waiting, and the classes of backlogs share the places: with places of their own, their chunks would be small.
     */
    toLimits(maxInFlight: number) {
      return {
        maxInFlight: 2 * shards * maxInFlight,
        groups: { of: (lane: number) => lane % (2 * shards), maxInFlight },
      };
    },

    isErased,

    /** Hears of the projects' backlogs in a shard. */
    onBacklogs(shard: number, backlogs: Map<number, number>): void {
      for (const [projectId, backlog] of backlogs) {
        const priority = toPriority(backlog);
        if (priority > 0) priorities.set(placeOf(projectId, shard), priority);
        else priorities.delete(placeOf(projectId, shard));
      }
    },
  };
}
