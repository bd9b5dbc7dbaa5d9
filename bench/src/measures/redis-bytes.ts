import { toTable, toWhole, withRedis } from '@opm/testkit';
import { type Contender, project, textbook } from '../contenders.js';
import { loadUntil, warmUp } from '../load/run-load.js';
import type { Report } from '../report.js';
import type { Servers } from '../servers.js';

export type RedisBytesOptions = { entries: number };

/** Measures the memory that a waiting entry takes in Redis. No worker runs. */
export async function measureRedisBytes(servers: Servers, { entries }: RedisBytesOptions): Promise<Report> {
  const ours = await fill(servers, project, entries);
  const theirs = await fill(servers, textbook, entries);
  return {
    name: 'redis-bytes',
    tables: toTable(
      ['contender', '#entries added', '#bytes per entry'],
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
    // Redis frees the memory that reading an earlier queue took only when scripts run again.
    const { requests: warmed } = await warmUp(target);
    const before = await readUsedMemory(place.redisUrl);
    const sent = await loadUntil(target, entries);
    const bytes = ((await readUsedMemory(place.redisUrl)) - before) / sent;
    const waiting = (await contender.countAccepted.new?.(place)) ?? 0;
    if (waiting < warmed + sent) throw new Error(`${warmed + sent} entries were acknowledged, but ${waiting} wait`);
    console.log(`${contender.name}: ${toWhole(sent)} entries, ${toWhole(bytes)} bytes each`);
    return { entries: sent, bytes };
  });
}

async function readUsedMemory(redisUrl: string): Promise<number> {
  const info = await withRedis(redisUrl, (redis) => redis.info('memory'));
  return Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
}
