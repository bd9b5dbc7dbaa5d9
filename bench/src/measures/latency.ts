import { median, toTable, toWhole } from '@opm/testkit';
import { bare, project } from '../contenders.js';
import type { LoadResult } from '../load/generators.js';
import { runLoad, warmUp } from '../load/run-load.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Servers } from '../servers.js';

export type LatencyOptions = { seconds: number; rounds: number };

/**
 * Measures the latency of an acknowledgement at half of the project's highest rate, next to the bare peer at the same
 * rate.
 */
export async function measureLatency(servers: Servers, { seconds, rounds }: LatencyOptions): Promise<Report> {
  const ours: LoadResult[] = [];
  const bares: LoadResult[] = [];
  for (let round = 1; round <= rounds; round++) {
    await servers.inFreshPlace(async (place) => {
      const target = await project.start(place);
      const peer = await bare.start(place);
      await warmUp(target);
      await warmUp(peer);
      const most = await runLoad({ target, seconds, customers: 'new' });
      const ourRun = await runLoad({ target, seconds, customers: 'new', rate: rateOf(most) / 2 });
      const bareRun = await runLoad({ target: peer, seconds, customers: 'new', rate: rateOf(ourRun) });
      ours.push(ourRun);
      bares.push(bareRun);
      console.log(`round ${round}: ${describe(project.name, ourRun)}; ${describe(bare.name, bareRun)}`);
    });
  }
  const bareP99 = bares.map(({ p99Ms }) => p99Ms);
  const ratioOf = (percentile: 'p50Ms' | 'p99Ms') =>
    medianRatio(
      ours.map((run) => run[percentile]),
      bareP99,
    );
  return {
    name: 'latency',
    tables: withRounds(
      toTable(['contender', '#acks/s', '#p50 ms', '#p99 ms'], [toRow(project.name, ours), toRow(bare.name, bares)]),
      rounds,
    ),
    verdicts: [
      { measure: 'p50 of the ack at half load ÷ p99 of bare', expected: { atMost: 3 }, measured: ratioOf('p50Ms') },
      { measure: 'p99 of the ack at half load ÷ p99 of bare', expected: { atMost: 3 }, measured: ratioOf('p99Ms') },
    ],
  };
}

const rateOf = ({ requests, seconds }: LoadResult) => requests / seconds;

const describe = (name: string, run: LoadResult) =>
  `${name}: p50 ${run.p50Ms} ms, p99 ${run.p99Ms} ms at ${Math.round(rateOf(run))} acks/s`;

const toRow = (name: string, runs: LoadResult[]) => [
  name,
  toWhole(median(runs.map(rateOf))),
  median(runs.map(({ p50Ms }) => p50Ms)).toFixed(2),
  median(runs.map(({ p99Ms }) => p99Ms)).toFixed(2),
];
