import { toTable, toWhole } from '@opm/testkit';
import { startProjectWorker } from '../contenders.js';
import { countCustomers } from '../customers.js';
import { makeEntries } from '../drain/entries.js';
import { fillQueue } from '../drain/persist-with-worker.js';
import { stopCleanly, timeDrain } from '../drain/time-drain.js';
import { mediansOf, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { readRedisSeconds } from './redis-seconds.js';

export type HandOutOptions = { rounds: number };

const SIZES = [200, 50, 8, 1];
/** So that each takes seconds, and has no more entries than a backlog that is usual. */
const toCount = (size: number) => Math.min(200_000, size * 20_000);

/** Of a run; microseconds of processor per entry. */
type Cost = { perSecond: number; redisUs: number; workerUs: number };

/** What an entry that waits takes of Redis and of a worker until it is a row, by how many of them share a chunk. */
export async function measureHandOut(servers: Servers, { rounds }: HandOutOptions): Promise<Report> {
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
