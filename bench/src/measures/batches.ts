import { toWhole } from '@opm/testkit';
import { project } from '../contenders.js';
import { warmUp } from '../load/run-load.js';
import { medianRatio, type Report, type Result, runsOf, toRateTable } from '../report.js';
import type { Servers } from '../servers.js';
import { runCounted } from './run-counted.js';

export type BatchesOptions = { seconds: number; rounds: number };

const WHAT = 'new';
const LOADS: { name: string; batch?: number }[] = [
  { name: 'single posts' },
  { name: 'batches of 100', batch: 100 },
  { name: 'batches of 1,000', batch: 1_000 },
];

/** Measures the gain from many entries per request. No worker runs. */
export async function measureBatches(servers: Servers, { seconds, rounds }: BatchesOptions): Promise<Report> {
  const results = LOADS.map(({ name }): Result => ({ contender: name, what: WHAT, perSecond: [] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { name, ...sizes } of LOADS) {
      await servers.inFreshPlace(async (place) => {
        const target = await project.start(place);
        await warmUp(target, sizes);
        const load = { target, seconds, customers: 'new' as const, ...sizes };
        const run = await runCounted(place, load, project.countAccepted.new);
        const perSecond = (run.requests * (sizes.batch ?? 1)) / run.seconds;
        runsOf(results, name, WHAT).push(perSecond);
        console.log(`round ${round}: ${name}: ${toWhole(perSecond)} entries/s`);
      });
    }
  }
  const [{ perSecond: singles = [] } = {}, ...batches] = results;
  return {
    name: 'batches',
    tables: toRateTable(results, 'batches of 1,000', 'entries/s'),
    verdicts: batches.map(({ contender, perSecond }) => ({
      measure: `entries/s in ${contender} ÷ in single posts`,
      expected: { atLeast: 4 },
      measured: medianRatio(perSecond, singles),
    })),
  };
}
