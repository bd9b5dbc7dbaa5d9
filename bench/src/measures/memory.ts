import { toTable, toWhole } from '@opm/testkit';
import { startProject, startProjectWorker } from '../contenders.js';
import { loadUntil } from '../load/run-load.js';
import type { Report } from '../report.js';
import type { Servers } from '../servers.js';

export type MemoryOptions = { first: number; last: number };

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
