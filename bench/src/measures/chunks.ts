import { type TestApp, toTable, toWhole } from '@opm/testkit';
import { countCustomers, startProject, startProjectWorker } from '../contenders.js';
import { readRedisSeconds, runCounted, runLoad, warmUp } from '../load/run-load.js';
import { countInShards } from '../queues.js';
import { mediansOf, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { fillQueue, makeEntries, stopCleanly, timeDrain } from './drain.js';

type ChunksOptions = { seconds: number; rounds: number };

/** The settings that determine the size of chunks. */
type Layout = { shards: number; connections: number; chunksInFlight: number };

const LAYOUTS: Layout[] = [
  { shards: 1, connections: 400, chunksInFlight: 4 },
  { shards: 1, connections: 100, chunksInFlight: 4 },
  { shards: 6, connections: 400, chunksInFlight: 1 },
  { shards: 6, connections: 400, chunksInFlight: 4 },
  { shards: 1, connections: 25, chunksInFlight: 4 },
  { shards: 6, connections: 100, chunksInFlight: 1 },
  { shards: 6, connections: 100, chunksInFlight: 4 },
];

/** Result of one run; CPU in µs per entry. */
type AckCost = { entriesPerChunk: number; ingressUs: number; redisUs: number };

/** Measures the CPU that an entry costs in the ingress and in Redis, by the size of chunks. No worker runs. */
export async function measureChunks(servers: Servers, { seconds, rounds }: ChunksOptions): Promise<Report> {
  const runs = LAYOUTS.map((layout) => ({ layout, costs: [] as AckCost[] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { layout, costs } of runs) {
      const cost = await measureAckCost(servers, layout, seconds);
      costs.push(cost);
      const { shards, connections, chunksInFlight } = layout;
      const [size, ingress, redis] = toAckCells(cost);
      const where = `${shards} shards, ${connections} connections, ${chunksInFlight} in flight`;
      console.log(`round ${round}: ${where}: chunks of ${size}, ${ingress} and ${redis} µs`);
    }
  }
  const table = toTable(
    ['#shards', '#connections', '#`CHUNKS_IN_FLIGHT`', '#entries per chunk', '#ingress µs', '#Redis µs'],
    runs.map(({ layout: { shards, connections, chunksInFlight }, costs }) => [
      ...[shards, connections, chunksInFlight].map(String),
      ...toAckCells(mediansOf(costs)),
    ]),
  );
  return { name: 'chunks', tables: withRounds(table, rounds), verdicts: [] };
}

const toAckCells = ({ entriesPerChunk, ingressUs, redisUs }: AckCost): string[] => [
  toWhole(entriesPerChunk),
  toWhole(ingressUs),
  redisUs.toFixed(1),
];

function measureAckCost(servers: Servers, { connections, ...settings }: Layout, seconds: number): Promise<AckCost> {
  return servers.inFreshPlace(async (fresh) => {
    const place = { ...fresh, ...settings };
    const target = await startProject(place);
    await warmUp(target);
    let [before, after] = [ZERO, ZERO];
    await runCounted(place, { target, seconds, customers: 'new', connections }, countInShards, async (load) => {
      before = await readCounts(target, place.redisUrl);
      const result = await runLoad(load);
      after = await readCounts(target, place.redisUrl);
      return result;
    });
    const grown = (what: keyof Counts) => after[what] - before[what];
    return {
      entriesPerChunk: grown('entries') / grown('chunks'),
      ingressUs: (grown('ingressSeconds') / grown('entries')) * 1e6,
      redisUs: (grown('redisSeconds') / grown('entries')) * 1e6,
    };
  });
}

type Counts = { entries: number; chunks: number; ingressSeconds: number; redisSeconds: number };
const ZERO: Counts = { entries: 0, chunks: 0, ingressSeconds: 0, redisSeconds: 0 };

async function readCounts({ readMetric }: Pick<TestApp, 'readMetric'>, redisUrl: string): Promise<Counts> {
  return {
    entries: await readMetric('opm_chunk_entries_sum'),
    chunks: await readMetric('opm_chunk_entries_count'),
    ingressSeconds: await readMetric('process_cpu_seconds_total'),
    redisSeconds: await readRedisSeconds(redisUrl),
  };
}

type DequeueOptions = { rounds: number };

const CHUNK_SIZES = [200, 50, 8, 1];
/** Enough entries for each size to take seconds, but no more than a usual backlog. */
const toCount = (size: number) => Math.min(200_000, size * 20_000);

/** Result of one run; CPU in µs per entry. */
type DequeueCost = { perSecond: number; redisUs: number; workerUs: number };

/** Measures the CPU that a waiting entry costs in Redis and in the worker until it is a row, by the size of chunks. */
export async function measureDequeue(servers: Servers, { rounds }: DequeueOptions): Promise<Report> {
  const runs = CHUNK_SIZES.map((size) => ({ size, costs: [] as DequeueCost[] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { size, costs } of runs) {
      const cost = await servers.inFreshPlace((place) => dequeue(place, size));
      costs.push(cost);
      const [perSecond, redis, worker] = toDequeueCells(cost);
      console.log(`round ${round}: chunks of ${size}: ${perSecond} entries/s, ${redis} and ${worker} µs`);
    }
  }
  const table = toTable(
    ['#entries per chunk', '#entries/s', '#Redis µs', '#worker µs'],
    runs.map(({ size, costs }) => [String(size), ...toDequeueCells(mediansOf(costs))]),
  );
  return { name: 'hand-out', tables: withRounds(table, rounds), verdicts: [] };
}

const toDequeueCells = ({ perSecond, redisUs, workerUs }: DequeueCost): string[] => [
  toWhole(perSecond),
  redisUs.toFixed(1),
  workerUs.toFixed(1),
];

async function dequeue(place: Place, size: number): Promise<DequeueCost> {
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
