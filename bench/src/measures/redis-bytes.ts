import { Redis } from 'ioredis';
import { type Contender, project, textbook } from '../contenders.js';
import { loadUntil } from '../load/load-until.js';
import { type Report, toTable, toWhole } from '../report.js';
import type { Servers } from '../servers.js';

export type RedisBytesOptions = { entries: number };

/** What an entry that waits takes of Redis. No worker runs. */
export async function measureRedisBytes(servers: Servers, { entries }: RedisBytesOptions): Promise<Report> {
  // In this order: what a Redis that has been full has not given back yet is in the peer's favour.
  const ours = await fill(servers, project, entries);
  const theirs = await fill(servers, textbook, entries);
  return {
    name: 'redis-bytes',
    tables: toTable(
      ['contender', '#entries waiting', '#bytes per entry'],
      [
        [project.name, toWhole(ours.entries), toWhole(ours.bytes)],
        [textbook.name, toWhole(theirs.entries), toWhole(theirs.bytes)],
      ],
    ),
    verdicts: [
      {
        measure: 'Redis bytes per waiting entry ÷ textbook',
        expected: { atMost: 0.4 },
        measured: ours.bytes / theirs.bytes,
      },
    ],
  };
}

function fill(servers: Servers, contender: Contender, entries: number): Promise<{ entries: number; bytes: number }> {
  return servers.inFreshPlace(async (place) => {
    const target = await contender.start(place);
    const before = await readUsedMemory(place.redisUrl);
    await loadUntil(target, entries);
    const after = await readUsedMemory(place.redisUrl); // before the counting, which takes memory for its answers
    const waiting = (await contender.countAccepted.new?.(place)) ?? 0;
    const bytes = (after - before) / waiting;
    console.log(`${contender.name}: ${waiting} entries wait, ${Math.round(bytes)} bytes each`);
    return { entries: waiting, bytes };
  });
}

async function readUsedMemory(redisUrl: string): Promise<number> {
  const redis = new Redis(redisUrl);
  const info = await redis.info('memory').finally(() => redis.disconnect());
  return Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
}
