import { expect, test } from '@jest/globals';
import { shardOf } from '@opm/queue';
import fc from 'fast-check';
import { createChunkPartitions, createPartitions } from './partitions.js';

const customer = fc.record({
  projectId: fc.integer({ min: 1, max: 1_000_000 }),
  customerId: fc.string({ minLength: 1 }),
});

test('a partition has the shard of the customer and the priority of its project’s backlog in that shard', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), customer, fc.nat(10_000_000), (shards, it, backlog) => {
      const partitions = createChunkPartitions(shards);
      const shard = shardOf(it.projectId, it.customerId, shards);
      partitions.onBacklogs(shard, new Map([[it.projectId, backlog]]));
      const priority = backlog <= 128 ? 0 : Math.ceil(Math.log(backlog / 128) / Math.log(16));
      expect(partitions.fromPartition(partitions.toPartition(it.projectId, it))).toEqual({
        shard,
        priority,
        waitsForLookUp: false,
      });
      expect(partitions.fromPartition(partitions.toPartition(it.projectId + 1, it)).priority).toBe(0);
      partitions.onBacklogs(shard, new Map([[it.projectId, 0]]));
      expect(partitions.fromPartition(partitions.toPartition(it.projectId, it)).priority).toBe(0);
    }),
  );
});

test('an erasure, and later entries of its customer, have partitions of their own', () => {
  const partitions = createChunkPartitions(3);
  const waits = (projectId: number, customerId: string, erase?: true) =>
    partitions.fromPartition(partitions.toPartition(projectId, { customerId, ...(erase && { erase }) })).waitsForLookUp;
  expect([waits(1, 'a'), waits(1, 'a', true), waits(1, 'a'), waits(1, 'b'), waits(2, 'a')]).toEqual([
    ...[false, true, true, false, false],
  ]);
  expect([partitions.isErased(1, 'a'), partitions.isErased(2, 'a')]).toEqual([true, false]);
});

test('if all other shards use up their calls in flight, one shard still has the places of a whole partition', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 200 }), (shards, perPartition) => {
      const { maxInFlight, groups } = createPartitions(shards).toLimits(perPartition);
      expect(maxInFlight - (shards - 1) * groups.maxInFlight).toBeGreaterThanOrEqual(perPartition);
      expect(maxInFlight).toBeGreaterThanOrEqual(64);
    }),
  );
});

test('a partition has one project and one shard', () => {
  const { toPartition, fromPartition } = createPartitions(6);
  for (const projectId of [1, 2, 77]) {
    const partitions = new Set(Array.from({ length: 100 }, (_, i) => toPartition(projectId, `customer ${i}`)));
    expect([...partitions].map((partition) => fromPartition(partition).projectId)).toEqual(Array(6).fill(projectId));
    expect([...partitions].map((partition) => fromPartition(partition).shard).sort()).toEqual([0, 1, 2, 3, 4, 5]);
  }
});
