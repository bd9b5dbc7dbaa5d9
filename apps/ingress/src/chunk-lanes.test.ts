import { expect, test } from '@jest/globals';
import { shardOf } from '@opm/queue';
import fc from 'fast-check';
import { createChunkLanes } from './chunk-lanes.js';

const customer = fc.record({
  projectId: fc.integer({ min: 1, max: 1_000_000 }),
  customerId: fc.string({ minLength: 1 }),
});

test('a lane is of the customer’s shard and of the priority that its project’s backlog there gives, and of no other project’s', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), customer, fc.nat(10_000_000), (shards, it, backlog) => {
      const lanes = createChunkLanes(shards);
      const shard = shardOf(it.projectId, it.customerId, shards);
      lanes.onBacklogs(shard, new Map([[it.projectId, backlog]]));
      const priority = backlog <= 128 ? 0 : Math.ceil(Math.log(backlog / 128) / Math.log(16));
      expect(lanes.fromLane(lanes.toLane(it.projectId, it))).toEqual({ shard, priority, waitsForLookUp: false });
      expect(lanes.fromLane(lanes.toLane(it.projectId + 1, it)).priority).toBe(0);
      lanes.onBacklogs(shard, new Map([[it.projectId, 0]]));
      expect(lanes.fromLane(lanes.toLane(it.projectId, it)).priority).toBe(0);
    }),
  );
});

test('an erasure, and what comes after it about its customer, has lanes of its own', () => {
  const lanes = createChunkLanes(3);
  const waits = (projectId: number, customerId: string, erase?: true) =>
    lanes.fromLane(lanes.toLane(projectId, { customerId, ...(erase && { erase }) })).waitsForLookUp;
  expect([waits(1, 'a'), waits(1, 'a', true), waits(1, 'a'), waits(1, 'b'), waits(2, 'a')]).toEqual([
    ...[false, true, true, false, false],
  ]);
  expect([lanes.isErased(1, 'a'), lanes.isErased(2, 'a')]).toEqual([true, false]);
});
