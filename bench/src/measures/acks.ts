import { deflateSync, gzipSync } from 'node:zlib';
import { median, toTable, toWhole, withRedis } from '@opm/testkit';
import autocannon from 'autocannon';
import type { Redis } from 'ioredis';
import {
  bare,
  type Contender,
  fastify,
  fillCustomers,
  project,
  startProject,
  synchronous,
  textbook,
} from '../contenders.js';
import type { LoadResult } from '../load/generators.js';
import { BATCH_CONNECTIONS, runCounted, runLoad, warmUp } from '../load/run-load.js';
import {
  medianRatio,
  mediansOf,
  type Report,
  type Result,
  runsOf,
  toRateTable,
  type Verdict,
  withRounds,
} from '../report.js';
import type { Place, Servers } from '../servers.js';

type AcksOptions = { seconds: number; rounds: number; known: number };

const CONTENDERS = [bare, fastify, textbook, synchronous, project];
const WHATS = ['new', 'updates'] as const;

/**
 * Measures the entries that each contender acknowledges per second. No worker runs, so only acknowledging is measured.
 */
export async function measureAcks(servers: Servers, { seconds, rounds, known }: AcksOptions): Promise<Report> {
  const results = WHATS.flatMap((what) =>
    CONTENDERS.map(({ name }): Result => ({ contender: name, what, perSecond: [] })),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const contender of CONTENDERS) {
      await servers.inFreshPlace(async (place) => {
        await fillCustomers(place.databaseUrl, known);
        const target = await contender.start(place);
        await warmUp(target);
        for (const what of WHATS) {
          const load = { target, seconds, customers: what === 'new' ? what : { known } };
          const { requests, seconds: took } = await runCounted(place, load, contender.countAccepted[what]);
          runsOf(results, contender.name, what).push(requests / took);
          console.log(`round ${round}: ${contender.name}, ${what}: ${toWhole(requests / took)} acks/s`);
        }
      });
    }
  }
  return { name: 'acks', tables: toRateTable(results, project.name, 'acks/s'), verdicts: judge(results) };
}

function judge(results: Result[]): Verdict[] {
  const ratio = (what: string, peer: Contender) =>
    medianRatio(runsOf(results, project.name, what), runsOf(results, peer.name, what));
  return [
    { measure: 'acks/s, new customers ÷ bare', expected: { atLeast: 0.55 }, measured: ratio('new', bare) },
    { measure: 'acks/s, updates ÷ bare', expected: { atLeast: 0.6 }, measured: ratio('updates', bare) },
    { measure: 'acks/s, new customers ÷ textbook', expected: { atLeast: 5 }, measured: ratio('new', textbook) },
    { measure: 'acks/s, updates ÷ textbook', expected: { atLeast: 5 }, measured: ratio('updates', textbook) },
    { measure: 'acks/s, new customers ÷ synchronous', expected: { atLeast: 25 }, measured: ratio('new', synchronous) },
    { measure: 'acks/s, updates ÷ synchronous', expected: { atLeast: 25 }, measured: ratio('updates', synchronous) },
  ];
}

type BatchesOptions = { seconds: number; rounds: number };

const LOADS: { name: string; batch?: number }[] = [
  { name: 'single posts' },
  { name: 'batches of 100', batch: 100 },
  { name: 'batches of 1,000', batch: 1_000 },
];

/** Measures the gain from many entries per request. No worker runs. */
export async function measureBatches(servers: Servers, { seconds, rounds }: BatchesOptions): Promise<Report> {
  const results = LOADS.map(({ name }): Result => ({ contender: name, what: 'new', perSecond: [] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { name, ...sizes } of LOADS) {
      await servers.inFreshPlace(async (place) => {
        const target = await project.start(place);
        await warmUp(target, sizes);
        const load = { target, seconds, customers: 'new' as const, ...sizes };
        const run = await runCounted(place, load, project.countAccepted.new);
        const perSecond = (run.requests * (sizes.batch ?? 1)) / run.seconds;
        runsOf(results, name, 'new').push(perSecond);
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

const CODINGS: { name: string; encode: (json: string) => Buffer }[] = [
  { name: 'plain', encode: Buffer.from },
  { name: 'gzip', encode: gzipSync },
  { name: 'deflate', encode: deflateSync },
];
const BATCH = 1_000;
/** Batches that are compressed once and then sent in turn: to compress new ones would take the load's processor. */
const BATCHES = 50;

/** What batches of one coding cost: CPU in µs of the ingress and bytes sent, both per entry. */
type CodingCost = { perSecond: number; ingressUs: number; bytes: number };

/** Measures what compression of batches saves on the wire, and what it costs the ingress. No worker runs. */
export async function measureCompression(servers: Servers, { seconds, rounds }: BatchesOptions): Promise<Report> {
  const runs = CODINGS.map((coding) => ({ ...coding, costs: [] as CodingCost[] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { name, encode, costs } of runs) {
      const cost = await servers.inFreshPlace((place) => sendEncoded(place, name, encode, seconds));
      costs.push(cost);
      console.log(`round ${round}: ${name}: ${toWhole(cost.perSecond)} entries/s, ${cost.ingressUs.toFixed(1)} µs`);
    }
  }
  const rows = runs.map(({ name, costs }) => {
    const { perSecond, ingressUs, bytes } = mediansOf(costs);
    return [name, toWhole(perSecond), ingressUs.toFixed(1), toWhole(bytes)];
  });
  const table = toTable(['coding', '#entries/s', '#ingress µs per entry', '#bytes per entry'], rows);
  return { name: 'compression', tables: withRounds(table, rounds), verdicts: [] };
}

async function sendEncoded(
  place: Place,
  coding: string,
  encode: (json: string) => Buffer,
  seconds: number,
): Promise<CodingCost> {
  const target = await startProject(place);
  await warmUp(target, { batch: BATCH });
  const headers = {
    'x-api-key': target.apiKey,
    'content-type': 'application/json',
    ...(coding !== 'plain' && { 'content-encoding': coding }),
  };
  const bodies = Array.from({ length: BATCHES }, (_, i) => encode(toBatch(i)));
  const readSeconds = () => target.readMetric('process_cpu_seconds_total');
  const countQueued = () => project.countAccepted.updates?.(place) ?? 0;
  const [before, queued] = [await readSeconds(), await countQueued()];
  const { requests, duration, non2xx, errors } = await autocannon({
    url: `${target.url}/entries`,
    connections: BATCH_CONNECTIONS,
    duration: seconds,
    requests: bodies.map((body) => ({ method: 'POST', headers, body })),
  });
  if (non2xx > 0 || errors > 0) throw new Error(`${coding}: ${non2xx} batches refused, ${errors} failed`);
  const entries = requests.total * BATCH;
  const cpuSeconds = (await readSeconds()) - before;
  // A 207 can refuse entries.
  if ((await countQueued()) - queued < entries) throw new Error(`${coding}: fewer entries were queued than sent`);
  return {
    perSecond: entries / duration,
    ingressUs: cpuSeconds * (1e6 / entries),
    bytes: bodies.reduce((sum, { length }) => sum + length, 0) / (BATCHES * BATCH),
  };
}

const toBatch = (batch: number): string =>
  JSON.stringify(
    Array.from({ length: BATCH }, (_, i) => {
      const n = batch * BATCH + i;
      return {
        customerId: `customer-${n}`,
        customerEmail: `customer.${n}@example.com`,
        customerPhone: `+49 30 ${n}`,
        customerFirstName: `First ${n}`,
        customerLastName: `Last ${n}`,
        customerIP: `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`,
      };
    }),
  );

type AppendfsyncOptions = { seconds: number; rounds: number };

const POLICIES = ['everysec', 'always'] as const;

/** Measures the cost of having each entry on disk before its acknowledgement, instead of within a second. */
export async function measureAppendfsync(servers: Servers, options: AppendfsyncOptions): Promise<Report> {
  const name = 'appendfsync';
  const asked: Omit<Verdict, 'measured'> = {
    measure: 'acks/s with appendfsync always ÷ everysec',
    expected: { atLeast: 0.5 },
  };
  if (process.env.REDIS_URL) {
    const tables = 'Not measured: the settings of the Redis in `REDIS_URL` are not ours to change.';
    return { name, tables, verdicts: [{ ...asked, measured: undefined }] };
  }
  const results = await withRedis(servers.redisUrl, (redis) =>
    comparePolicies(servers, redis, options).finally(() => redis.config('SET', 'appendfsync', 'everysec')),
  );
  const [everysec = [], always = []] = POLICIES.map((policy) => runsOf(results, policy, 'new'));
  return {
    name,
    tables: toRateTable(results, 'always', 'acks/s'),
    verdicts: [{ ...asked, measured: medianRatio(always, everysec) }],
  };
}

async function comparePolicies(
  servers: Servers,
  redis: Redis,
  { seconds, rounds }: AppendfsyncOptions,
): Promise<Result[]> {
  const results = POLICIES.map((policy): Result => ({ contender: policy, what: 'new', perSecond: [] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { contender: policy, perSecond } of results) {
      await redis.config('SET', 'appendfsync', policy);
      await servers.inFreshPlace(async (place) => {
        const target = await project.start(place);
        await warmUp(target);
        const run = await runCounted(place, { target, seconds, customers: 'new' }, project.countAccepted.new);
        perSecond.push(run.requests / run.seconds);
        console.log(`round ${round}: appendfsync ${policy}: ${toWhole(run.requests / run.seconds)} acks/s`);
      });
    }
  }
  return results;
}

type LatencyOptions = { seconds: number; rounds: number };

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
      const ourRun = await runLoad({ target, seconds, customers: 'new', rate: ackRateOf(most) / 2 });
      const bareRun = await runLoad({ target: peer, seconds, customers: 'new', rate: ackRateOf(ourRun) });
      ours.push(ourRun);
      bares.push(bareRun);
      console.log(`round ${round}: ${describeLatency(project.name, ourRun)}; ${describeLatency(bare.name, bareRun)}`);
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
      toTable(
        ['contender', '#acks/s', '#p50 ms', '#p99 ms'],
        [toLatencyRow(project.name, ours), toLatencyRow(bare.name, bares)],
      ),
      rounds,
    ),
    verdicts: [
      { measure: 'p50 of the ack at half load ÷ p99 of bare', expected: { atMost: 3 }, measured: ratioOf('p50Ms') },
      { measure: 'p99 of the ack at half load ÷ p99 of bare', expected: { atMost: 3 }, measured: ratioOf('p99Ms') },
    ],
  };
}

const ackRateOf = ({ requests, seconds }: LoadResult) => requests / seconds;

const describeLatency = (name: string, run: LoadResult) =>
  `${name}: p50 ${run.p50Ms} ms, p99 ${run.p99Ms} ms at ${Math.round(ackRateOf(run))} acks/s`;

const toLatencyRow = (name: string, runs: LoadResult[]) => [
  name,
  toWhole(median(runs.map(ackRateOf))),
  median(runs.map(({ p50Ms }) => p50Ms)).toFixed(2),
  median(runs.map(({ p99Ms }) => p99Ms)).toFixed(2),
];
