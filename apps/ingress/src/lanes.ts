import { shardOf } from '@opm/queue';

/** Numbers for what may go into one bulk call: the entries or customers of one project and shard. */
export type Lanes = ReturnType<typeof createLanes>;

export function createLanes(shards: number) {
  return {
    toLane: (projectId: number, customerId: string): number =>
      projectId * shards + shardOf(projectId, customerId, shards),
    fromLane: (lane: number) => ({ projectId: Math.floor(lane / shards), shard: lane % shards }),
  };
}
