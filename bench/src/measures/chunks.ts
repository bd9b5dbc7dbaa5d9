import { type TestApp, toTable, toWhole } from '@opm/testkit';
import { startProject } from '../contenders.js';
import { readRedisSeconds, runCounted, runLoad, warmUp } from '../load/run-load.js';
import { countInShards } from '../queues.js';
import { mediansOf, type Report, withRounds } from '../report.js';
import type { Servers } from '../servers.js';

export type ChunksOptions = { seconds: number; rounds: number };

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
type Cost = { entriesPerChunk: number; ingressUs: number; redisUs: number };

/** Measures the CPU that an entry costs in the ingress and in Redis, by the size of chunks. No worker runs. */
export async function measureChunks(servers: Servers, { seconds, rounds }: ChunksOptions): Promise<Report> {
  const runs = LAYOUTS.map((layout) => ({ layout, costs: [] as Cost[] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { layout, costs } of runs) {
      const cost = await measureCost(servers, layout, seconds);
      costs.push(cost);
      const { shards, connections, chunksInFlight } = layout;
      const [size, ingress, redis] = toCells(cost);
      const where = `${shards} shards, ${connections} connections, ${chunksInFlight} in flight`;
      console.log(`round ${round}: ${where}: chunks of ${size}, ${ingress} and ${redis} µs`);
    }
  }
  const table = toTable(
    ['#shards', '#connections', '#`CHUNKS_IN_FLIGHT`', '#entries per chunk', '#ingress µs', '#Redis µs'],
    runs.map(({ layout: { shards, connections, chunksInFlight }, costs }) => [
      ...[shards, connections, chunksInFlight].map(String),
      ...toCells(mediansOf(costs)),
    ]),
  );
  return { name: 'chunks', tables: withRounds(table, rounds), verdicts: [] };
}

const toCells = ({ entriesPerChunk, ingressUs, redisUs }: Cost): string[] => [
  toWhole(entriesPerChunk),
  toWhole(ingressUs),
  redisUs.toFixed(1),
];

function measureCost(servers: Servers, { connections, ...settings }: Layout, seconds: number): Promise<Cost> {
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
