import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { median, startRedisCluster, toTable, toWhole } from '@opm/testkit';
import { countCustomers, project, startIngresses } from '../contenders.js';
import { runCounted, warmUp } from '../load/run-load.js';
import { countInShards } from '../queues.js';
import { medianRatio, type Report, type Result, runsOf, toRatioTable, withRounds } from '../report.js';
import { type Place, SETTINGS, type Servers } from '../servers.js';
import { makeEntries, persistWithWorkers } from './drain.js';

type ProcessesOptions = { entries: number; seconds: number; rounds: number };

const COUNTS = [1, 2, 4];
const toName = (count: number) => (count === 1 ? '1 process' : `${count} processes`);

/** Measures the gain from more ingresses and more workers, as processes on one machine with one queue. */
export async function measureProcesses(servers: Servers, options: ProcessesOptions): Promise<Report> {
  const { entries, seconds, rounds } = options;
  const measures: [what: string, measure: (place: Place, count: number) => Promise<number>][] = [
    ['acks/s, ingresses', (place, count) => acknowledge(place, count, seconds)],
    ['persisted/s, workers', (place, count) => persist(place, count, entries)],
  ];
  const results = measures.flatMap(([what]) =>
    COUNTS.map((count): Result => ({ contender: toName(count), what, perSecond: [] })),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const [what, measure] of measures) {
      for (const count of COUNTS) {
        const perSecond = await servers.inFreshPlace((place) => measure(place, count));
        runsOf(results, toName(count), what).push(perSecond);
        console.log(`round ${round}: ${what}, ${toName(count)}: ${toWhole(perSecond)}/s`);
      }
    }
  }
  return { name: 'processes', tables: toRatioTable(results, toName(1), 'entries/s'), verdicts: [] };
}

/** Acknowledged entries per second. No worker runs. */
async function acknowledge(place: Place, count: number, seconds: number): Promise<number> {
  const [target, ...besides] = await startIngresses(place, count);
  await Promise.all([target, ...besides].map((ingress) => warmUp(ingress)));
  const run = await runCounted(place, { target, besides, seconds, customers: 'new' }, project.countAccepted.new);
  return run.requests / run.seconds;
}

async function persist(place: Place, count: number, entries: number): Promise<number> {
  const seconds = await persistWithWorkers(place, makeEntries(entries, 0), count);
  const rows = await countCustomers(place.databaseUrl);
  if (rows !== entries) throw new Error(`${rows} of ${entries} entries became rows`);
  return entries / seconds;
}

type ClusterOptions = { seconds: number; rounds: number };

const SHARDS = 6;
const REDIS = { name: 'one Redis' };
const ONE = { name: 'one master', masters: 1, minReplicas: 0 };
const ONE_CONFIRMED = { name: 'one master, confirmed', masters: 1, minReplicas: 1 };
const THREE = { name: 'three masters', masters: 3, minReplicas: 0 };
const THREE_CONFIRMED = { name: 'three masters, confirmed', masters: 3, minReplicas: 1 };
const LAYOUTS: Layout[] = [REDIS, ONE, ONE_CONFIRMED, THREE, THREE_CONFIRMED];

type Layout = { name: string; masters?: number; minReplicas?: number };

/**
 * Measures the gain from spreading the queue over the masters of a cluster, and the cost of confirming replicas. No
 * worker runs.
 */
export async function measureCluster(servers: Servers, { seconds, rounds }: ClusterOptions): Promise<Report> {
  const rates = new Map(LAYOUTS.map(({ name }): [string, number[]] => [name, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const layout of LAYOUTS) {
      await servers.inFreshPlace(async (fresh) => {
        const place = await toPlace(fresh, layout);
        const target = await project.start(place);
        await warmUp(target);
        const run = await runCounted(place, { target, seconds, customers: 'new' }, countInShards);
        rates.get(layout.name)?.push(run.requests / run.seconds);
        console.log(`round ${round}: ${layout.name}: ${toWhole(run.requests / run.seconds)} acks/s`);
      });
    }
  }
  return { name: 'cluster', tables: toTables(rates, rounds), verdicts: [] };
}

/** Starts a cluster with one replica per master and the settings of the single Redis. */
async function toPlace(place: Place, { masters, minReplicas = 0 }: Layout): Promise<Place> {
  if (masters === undefined) return place;
  const directory = await mkdtemp(join(tmpdir(), 'opm-bench-'));
  place.onEnd(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));
  const flags = Object.entries(SETTINGS).flatMap(([name, value]) => [`--${name}`, value]);
  const cluster = await startRedisCluster({ directory, masters, replicasPerMaster: 1, flags });
  place.onEnd(cluster.stop);
  return { ...place, redisUrl: cluster.nodes.map(({ url }) => url).join(','), shards: SHARDS, minReplicas };
}

function toTables(rates: Map<string, number[]>, rounds: number): string {
  const ratesOf = ({ name }: Layout) => rates.get(name) ?? [];
  const ratio = (a: Layout, b: Layout) => medianRatio(ratesOf(a), ratesOf(b)).toFixed(2);
  const table = toTable(
    ['queue on', '#acks/s', '#range', '#÷ one Redis'],
    LAYOUTS.map((layout) => {
      const all = ratesOf(layout);
      const range = `${toWhole(Math.min(...all))} to ${toWhole(Math.max(...all))}`;
      return [layout.name, toWhole(median(all)), range, ratio(layout, REDIS)];
    }),
  );
  const ratios = toTable(
    ['', '#ratio'],
    [
      ['three masters ÷ one', ratio(THREE, ONE)],
      ['three masters ÷ one, both confirmed', ratio(THREE_CONFIRMED, ONE_CONFIRMED)],
      ['confirmed ÷ not, one master', ratio(ONE_CONFIRMED, ONE)],
      ['confirmed ÷ not, three masters', ratio(THREE_CONFIRMED, THREE)],
    ],
  );
  return `${withRounds(table, rounds)}\n\n${ratios}`;
}
