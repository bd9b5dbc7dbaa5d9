import { expect, test } from '@jest/globals';
import { shardOf } from '@opm/queue';
import fc from 'fast-check';
import { createChunkPartitions } from './partitions.js';

const customer = fc.record({
  projectId: fc.integer({ min: 1, max: 1_000_000 }),
  customerId: fc.string({ minLength: 1 }),
});

test('an entry gets the shard of its customer and the priority of its project’s backlog in that shard', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), customer, fc.nat(10_000_000), (shards, it, backlog) => {
      const partitions = createChunkPartitions(shards);
      const shard = shardOf(it.projectId, it.customerId, shards);
      partitions.onBacklogs(shard, new Map([[it.projectId, backlog]]));
      const priority = backlog <= 128 ? 0 : Math.ceil(Math.log(backlog / 128) / Math.log(16));
      const partition = partitions.assign(it.projectId, it);
      expect(partitions.fromPartition(partition)).toEqual({ shard, waitsForLookUp: false });
      expect(partitions.priorityOf(it.projectId, partition)).toBe(priority);
      expect(partitions.priorityOf(it.projectId + 1, partition)).toBe(0);
      partitions.onBacklogs(shard, new Map([[it.projectId, 0]]));
      expect(partitions.priorityOf(it.projectId, partition)).toBe(0);
    }),
  );
});

test('equal projects whose backlogs grow together share nearly all jobs, in each priority', () => {
  const [projects, perChunk] = [100, 32];
  const partitions = createChunkPartitions(1);
  const backlogs = new Map<number, number>();
  const priorities = new Set<number>();
  let seed = 1;
  const toRandomId = () => {
    seed = (seed * 48_271) % 2_147_483_647; // the minimal standard generator of Park and Miller
    return 1 + (seed % projects);
  };
  let [turns, jobs] = [0, 0];
  for (; turns * perChunk < 10_000 * projects; turns++) {
    const ids = Array.from({ length: perChunk }, toRandomId);
    const used = new Set(ids.map((id) => partitions.priorityOf(id, 0)));
    for (const priority of used) priorities.add(priority);
    jobs += used.size;
    for (const id of ids.slice(0, perChunk / 16)) {
      backlogs.set(id, (backlogs.get(id) ?? 0) + 16); // as the stores count
      partitions.onBacklogs(0, new Map([[id, backlogs.get(id) ?? 0]]));
    }
  }
  expect([...priorities].sort()).toEqual([0, 1, 2]);
  expect(jobs / turns).toBeLessThan(1.05);
});

test('beside projects with long backlogs, one with 48 waiting entries, or with none known, comes first', () => {
  fc.assert(
    fc.property(fc.integer({ min: 385, max: 1e9 }), fc.integer({ min: 1, max: 1_000 }), (long, samples) => {
      const partitions = createChunkPartitions(1);
      const priorityOf = (id: number) => partitions.priorityOf(id, 0);
      partitions.onBacklogs(0, new Map([[2, long]]));
      expect(priorityOf(2)).toBeGreaterThan(0);
      for (let i = 0; i < samples; i++) partitions.onBacklogs(0, new Map([[1, long]]));
      partitions.onBacklogs(0, new Map([[2, 48]]));
      expect([priorityOf(1) > 0, priorityOf(2), priorityOf(3)]).toEqual([true, 0, 0]);
    }),
  );
});

test('an erasure, and later entries of its customer, have partitions of their own', () => {
  const partitions = createChunkPartitions(3);
  const waits = (projectId: number, customerId: string, erase?: true) =>
    partitions.fromPartition(partitions.assign(projectId, { customerId, ...(erase && { erase }) })).waitsForLookUp;
  expect([waits(1, 'a'), waits(1, 'a', true), waits(1, 'a'), waits(1, 'b'), waits(2, 'a')]).toEqual([
    ...[false, true, true, false, false],
  ]);
  expect([partitions.isErased(1, 'a'), partitions.isErased(2, 'a')]).toEqual([true, false]);
});
