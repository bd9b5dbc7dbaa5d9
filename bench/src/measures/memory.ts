import { toTable, toWhole, withRedis } from '@opm/testkit';
import { type Contender, project, startProject, startProjectWorker, textbook } from '../contenders.js';
import { loadUntil, warmUp } from '../load/run-load.js';
import type { Report } from '../report.js';
import type { Servers } from '../servers.js';

type MemoryOptions = { first: number; last: number };

/**
 * Measures whether the ingress's memory grows with the number of answered requests. One worker drains the queue
 * meanwhile.
 */
export function measureMemory(servers: Servers, { first, last }: MemoryOptions): Promise<Report> {
  return servers.inFreshPlace(async (place) => {
    const target = await startProject(place);
    await startProjectWorker(place);
    const readMib = async () => (await target.readMetric('process_resident_memory_bytes')) / 2 ** 20;

    const early = await loadUntil(target, first);
    const earlyMib = await readMib();
    console.log(`${toWhole(early)} requests: ${toWhole(earlyMib)} MiB`);
    const late = early + (await loadUntil(target, last - early));
    const lateMib = await readMib();
    console.log(`${toWhole(late)} requests: ${toWhole(lateMib)} MiB`);

    return {
      name: 'memory',
      tables: toTable(
        ['#requests answered', '#resident MiB'],
        [
          [toWhole(early), toWhole(earlyMib)],
          [toWhole(late), toWhole(lateMib)],
        ],
      ),
      verdicts: [
        {
          measure: `resident memory after ${toWhole(last)} requests ÷ after ${toWhole(first)}`,
          expected: { atMost: 1.1 },
          measured: lateMib / earlyMib,
        },
      ],
    };
  });
}

type RedisBytesOptions = { entries: number };

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
