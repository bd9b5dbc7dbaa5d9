import { shardOf } from '@opm/queue';

/** Numbers for what may go into one bulk call: the keys or customers of one project and shard. */
export type Lanes = ReturnType<typeof createLanes>;

/** Shared out among the shards. They wait for their stores, and not for the processor. */
const MAX_IN_FLIGHT = 64;

export function createLanes(shards: number) {
  const shardOfLane = (lane: number) => lane % shards;
  return {
    toLane: (projectId: number, customerId: string): number =>
      projectId * shards + shardOf(projectId, customerId, shards),
    fromLane: (lane: number) => ({ projectId: Math.floor(lane / shards), shard: shardOfLane(lane) }),
    /**
     * How many bulk calls may be under way: each shard has a share of its own, of no less than what a lane may have, so that
     * those of a shard whose store hangs take no places from the others.
     */
    toLimits(maxInFlightPerLane: number) {
      const share = Math.max(Math.ceil(MAX_IN_FLIGHT / shards), maxInFlightPerLane);
      return { maxInFlight: share * shards, maxInFlightPerLane, groups: { of: shardOfLane, maxInFlight: share } };
    },
  };
}
