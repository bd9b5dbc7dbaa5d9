import { toTable, toWhole } from '@opm/testkit';
import { countCustomers, startProjectWorker } from '../contenders.js';
import { makeEntries } from '../drain/drain.js';
import { fillQueue, stopCleanly, timeDrain } from '../drain/persist.js';
import { readRedisSeconds } from '../load/run-load.js';
import { mediansOf, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';

export type DequeueOptions = { rounds: number };

const SIZES = [200, 50, 8, 1];
/** Enough entries for each size to take seconds, but no more than a usual backlog. */
const toCount = (size: number) => Math.min(200_000, size * 20_000);

/** Result of one run; CPU in µs per entry. */
type Cost = { perSecond: number; redisUs: number; workerUs: number };

/** Measures the CPU that a waiting entry costs in Redis and in the worker until it is a row, by the size of chunks. */
export async function measureDequeue(servers: Servers, { rounds }: DequeueOptions): Promise<Report> {
  const runs = SIZES.map((size) => ({ size, costs: [] as Cost[] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { size, costs } of runs) {
      const cost = await servers.inFreshPlace((place) => drain(place, size));
      costs.push(cost);
      const [perSecond, redis, worker] = toCells(cost);
      console.log(`round ${round}: chunks of ${size}: ${perSecond} entries/s, ${redis} and ${worker} µs`);
    }
  }
  const table = toTable(
    ['#entries per chunk', '#entries/s', '#Redis µs', '#worker µs'],
    runs.map(({ size, costs }) => [String(size), ...toCells(mediansOf(costs))]),
  );
  return { name: 'hand-out', tables: withRounds(table, rounds), verdicts: [] };
}

const toCells = ({ perSecond, redisUs, workerUs }: Cost): string[] => [
  toWhole(perSecond),
  redisUs.toFixed(1),
  workerUs.toFixed(1),
];

async function drain(place: Place, size: number): Promise<Cost> {
  const count = toCount(size);
  const opened = await fillQueue(place, makeEntries(count, 0), size);
  const worker = await startProjectWorker(place);
  const readSeconds = () =>
    Promise.all([readRedisSeconds(place.redisUrl), worker.readMetric('process_cpu_seconds_total')]);
  const [redisBefore, workerBefore] = await readSeconds();
  const seconds = await timeDrain(opened);
  const [redisAfter, workerAfter] = await readSeconds();
  await stopCleanly(worker);
  await opened.close();
  const rows = await countCustomers(place.databaseUrl);
  if (rows !== count) throw new Error(`${rows} of ${count} entries became rows`);
  return {
    perSecond: count / seconds,
    redisUs: ((redisAfter - redisBefore) / count) * 1e6,
    workerUs: ((workerAfter - workerBefore) / count) * 1e6,
  };
}
