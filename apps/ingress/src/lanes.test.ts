import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createLanes } from './lanes.js';

test('when all shards but one have as many calls under way as they may, the last has as many places as a lane may have', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 200 }), (shards, perLane) => {
      const { maxInFlight, groups } = createLanes(shards).toLimits(perLane);
      expect(maxInFlight - (shards - 1) * groups.maxInFlight).toBeGreaterThanOrEqual(perLane);
      expect(maxInFlight).toBeGreaterThanOrEqual(64);
    }),
  );
});

test('a lane is of one project and shard', () => {
  const { toLane, fromLane } = createLanes(6);
  for (const projectId of [1, 2, 77]) {
    const lanes = new Set(Array.from({ length: 100 }, (_, i) => toLane(projectId, `customer ${i}`)));
    expect([...lanes].map((lane) => fromLane(lane).projectId)).toEqual(Array(6).fill(projectId));
    expect([...lanes].map((lane) => fromLane(lane).shard).sort()).toEqual([0, 1, 2, 3, 4, 5]);
  }
});
