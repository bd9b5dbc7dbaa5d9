import { median, type TestApp, toTable, toWhole, withRedis } from '@opm/testkit';
import { type Count, startProject, startProjectWorker } from '../contenders.js';
import { countCustomers } from '../customers.js';
import { runLoad, warmUp } from '../load/run-load.js';
import { type Report, withRounds } from '../report.js';
import type { Servers } from '../servers.js';
import { runCounted } from './run-counted.js';

export type ChunksOptions = { seconds: number; rounds: number };

/** What decides how many entries meet in a chunk. */
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

/** Of a run; microseconds of processor per entry. */
type Cost = { entriesPerChunk: number; ingressUs: number; redisUs: number; workerUs: number };

/** What an entry takes of the ingress, of Redis and of a worker until it is a row, by how many of them share a chunk. */
export async function measureChunks(servers: Servers, { seconds, rounds }: ChunksOptions): Promise<Report> {
  const runs = LAYOUTS.map((layout) => ({ layout, costs: [] as Cost[] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { layout, costs } of runs) {
      const cost = await measureCost(servers, layout, seconds);
      costs.push(cost);
      const { shards, connections, chunksInFlight } = layout;
      const [size, ...parts] = toCells(cost);
      const where = `${shards} shards, ${connections} connections, ${chunksInFlight} in flight`;
      console.log(`round ${round}: ${where}: chunks of ${size}, ${parts.join(', ')} µs`);
    }
  }
  const table = toTable(
    [
      ...['#shards', '#connections', '#`CHUNKS_IN_FLIGHT`', '#entries per chunk'],
      ...['#ingress µs', '#Redis µs', '#worker µs'],
    ],
    runs.map(({ layout: { shards, connections, chunksInFlight }, costs }) => {
      const medianOf = (what: keyof Cost) => median(costs.map((cost) => cost[what]));
      return [
        ...[shards, connections, chunksInFlight].map(String),
        ...toCells({
          entriesPerChunk: medianOf('entriesPerChunk'),
          ingressUs: medianOf('ingressUs'),
          redisUs: medianOf('redisUs'),
          workerUs: medianOf('workerUs'),
        }),
      ];
    }),
  );
  return { name: 'chunks', tables: withRounds(table, rounds), verdicts: [] };
}

const toCells = ({ entriesPerChunk, ingressUs, redisUs, workerUs }: Cost): string[] => [
  toWhole(entriesPerChunk),
  toWhole(ingressUs),
  redisUs.toFixed(1),
  workerUs.toFixed(1),
];

function measureCost(servers: Servers, { connections, ...settings }: Layout, seconds: number): Promise<Cost> {
  return servers.inFreshPlace(async (fresh) => {
    const place = { ...fresh, ...settings };
    const ingress = await startProject(place);
    const worker = await startProjectWorker(place);
    const readAll = () => readCounts(ingress, worker, place.redisUrl);
    await warmUp(ingress);
    const load = { target: ingress, seconds, customers: 'new', connections } as const;
    let before = ZERO;
    // At its end all that was accepted is rows.
    await runCounted(place, load, countRows, async (counted) => {
      before = await readAll();
      return runLoad(counted);
    });
    const after = await readAll();
    const grown = (what: keyof Counts) => after[what] - before[what];
    const toUs = (what: keyof Counts) => (grown(what) / grown('entries')) * 1e6;
    return {
      entriesPerChunk: grown('entries') / grown('chunks'),
      ingressUs: toUs('ingressSeconds'),
      redisUs: toUs('redisSeconds'),
      workerUs: toUs('workerSeconds'),
    };
  });
}

const countRows: Count = ({ databaseUrl }) => countCustomers(databaseUrl);

type Counts = { entries: number; chunks: number; ingressSeconds: number; redisSeconds: number; workerSeconds: number };
const ZERO: Counts = { entries: 0, chunks: 0, ingressSeconds: 0, redisSeconds: 0, workerSeconds: 0 };

type Measured = Pick<TestApp, 'readMetric'>;

async function readCounts(ingress: Measured, worker: Measured, redisUrl: string): Promise<Counts> {
  const cpu = await withRedis(redisUrl, (redis) => redis.info('cpu'));
  const secondsOf = (what: string) => Number(new RegExp(`^used_cpu_${what}:([\\d.]+)`, 'm').exec(cpu)?.[1]);
  return {
    entries: await ingress.readMetric('opm_chunk_entries_sum'),
    chunks: await ingress.readMetric('opm_chunk_entries_count'),
    ingressSeconds: await ingress.readMetric('process_cpu_seconds_total'),
    redisSeconds: secondsOf('user') + secondsOf('sys'),
    workerSeconds: await worker.readMetric('process_cpu_seconds_total'),
  };
}
