import { createStore } from '@opm/store';
import { median, type TestApp, toTable, toWhole } from '@opm/testkit';
import { project, startProject, startProjectWorker, synchronous, type Target } from '../contenders.js';
import { slice } from '../drain/entries.js';
import { stopCleanly, timeDrain } from '../drain/time-drain.js';
import { runLoad, warmUp } from '../load/run-load.js';
import { countWaiting, openProjectQueue } from '../queues.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { readRedisSeconds } from './redis-seconds.js';
import { runCounted } from './run-counted.js';

export type PartnersOptions = { partners: number; seconds: number; rounds: number };

type Case = { queue: 'Redis' | 'PostgreSQL'; partners: number; isZipf?: true };

/** Of a run; µs of processor per entry. */
type Run = { acks: number; drain: number; p99Ms: number; ingressUs: number; workerUs: number; redisUs: number };

/** So many times as many partners, too: more than an ingress meets within a second. */
const MANY = 10;
/** Projects that are created at the same time. */
const CREATED_AT_ONCE = 50;
/** As many requests as there are turns before they begin anew. */
const TURNS = 20_000;

/** Whether a thousand partners are as fast as one: what is acknowledged, and how fast one worker persists it. */
export async function measurePartners(
  servers: Servers,
  { partners, seconds, rounds }: PartnersOptions,
): Promise<Report> {
  const cases: Case[] = (['Redis', 'PostgreSQL'] as const).flatMap((queue) => [
    { queue, partners: 1 },
    { queue, partners },
    { queue, partners: MANY * partners },
    { queue, partners, isZipf: true },
  ]);
  const runs = new Map<Case, Run[]>(cases.map((it) => [it, []]));
  const peer: number[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const it of cases) {
      const run = await measureCase(servers, it, seconds);
      runs.get(it)?.push(run);
      console.log(`round ${round}: ${nameOf(it)}: ${toWhole(run.acks)} acks/s, ${toWhole(run.drain)} drained/s`);
    }
    peer.push(await servers.inFreshPlace((place) => measureSynchronous(place, seconds)));
  }
  const figure = (it: Case | undefined, name: 'acks' | 'drain') =>
    (it ? (runs.get(it) ?? []) : []).map((run) => run[name]);
  const find = (queue: Case['queue'], count: number, isZipf?: true) =>
    cases.find((it) => it.queue === queue && it.partners === count && it.isZipf === isZipf);
  const ratio = (name: 'acks' | 'drain', queue: Case['queue'], isZipf?: true, count = partners) =>
    medianRatio(figure(find(queue, count, isZipf), name), figure(find(queue, 1), name));
  const both = figure(find('PostgreSQL', partners), 'acks').map((acks, i) =>
    Math.min(acks, figure(find('PostgreSQL', partners), 'drain')[i] ?? 0),
  );
  return {
    name: 'partners',
    tables: withRounds(
      toTable(
        ['queue', '#partners', '#acks/s', '#drained/s', '#p99 ms', '#ingress µs', '#worker µs', '#Redis µs'],
        [...runs].map(([it, own]) => [it.queue, toPartners(it), ...toCells(own)]),
      ),
      rounds,
    ),
    verdicts: [
      {
        measure: `acks/s on Redis, ${partners} partners ÷ 1`,
        expected: { atLeast: 0.9 },
        measured: ratio('acks', 'Redis'),
      },
      {
        measure: `acks/s on Redis, ${MANY * partners} partners ÷ 1`,
        expected: { atLeast: 0.8 },
        measured: ratio('acks', 'Redis', undefined, MANY * partners),
      },
      {
        measure: `acks/s on Redis, ${partners} partners, Zipf-distributed ÷ 1`,
        expected: { atLeast: 0.9 },
        measured: ratio('acks', 'Redis', true),
      },
      {
        measure: `drain on Redis, ${partners} partners ÷ 1`,
        expected: { atLeast: 0.85 },
        measured: ratio('drain', 'Redis'),
      },
      {
        measure: `acks/s on PostgreSQL, ${partners} partners ÷ 1`,
        expected: { atLeast: 0.8 },
        measured: ratio('acks', 'PostgreSQL'),
      },
      {
        measure: `drain on PostgreSQL, ${partners} partners ÷ 1`,
        expected: { atLeast: 0.8 },
        measured: ratio('drain', 'PostgreSQL'),
      },
      {
        measure: `the lesser of both on PostgreSQL, ${partners} partners ÷ synchronous`,
        expected: { atLeast: 3 },
        measured: medianRatio(both, peer),
      },
    ],
  };
}

const toPartners = ({ partners, isZipf }: Case) => `${toWhole(partners)}${isZipf ? ', Zipf' : ''}`;
const nameOf = (it: Case) => `${it.queue}, ${toPartners(it)} partners`;

const toCells = (runs: Run[]) => [
  toWhole(median(runs.map(({ acks }) => acks))),
  toWhole(median(runs.map(({ drain }) => drain))),
  median(runs.map(({ p99Ms }) => p99Ms)).toFixed(1),
  ...(['ingressUs', 'workerUs', 'redisUs'] as const).map((name) => median(runs.map((run) => run[name])).toFixed(1)),
];

function measureCase(servers: Servers, it: Case, seconds: number): Promise<Run> {
  return servers.inFreshPlace(async (fresh) => {
    const place: Place = it.queue === 'PostgreSQL' ? { ...fresh, queue: 'postgres' } : fresh;
    const ingress = await startProject(place);
    const target = await withPartners(place, ingress, it);
    await warmUp(target);
    const opened = await openProjectQueue(place);
    await opened.queue.pause();
    const redisSeconds = () => (it.queue === 'Redis' ? readRedisSeconds(place.redisUrl) : Promise.resolve(0));
    const cpu = ({ readMetric }: Pick<TestApp, 'readMetric'>) => readMetric('process_cpu_seconds_total');

    let [ingressSeconds, before] = [0, 0];
    const load = { target, seconds, customers: 'new' as const };
    const acked = await runCounted(place, load, project.countAccepted.new, async (given) => {
      [ingressSeconds, before] = [await cpu(ingress), await redisSeconds()];
      const result = await runLoad(given);
      ingressSeconds = (await cpu(ingress)) - ingressSeconds;
      return result;
    });
    const waiting = await countWaiting(opened);
    const worker = await startProjectWorker(place);
    const workerBefore = await cpu(worker);
    const drainSeconds = await timeDrain(opened);
    const workerSeconds = (await cpu(worker)) - workerBefore;
    await stopCleanly(worker);
    await opened.close();
    const toUs = (some: number, entries: number) => (some / entries) * 1e6;
    return {
      acks: acked.requests / acked.seconds,
      drain: waiting / drainSeconds,
      p99Ms: acked.p99Ms,
      ingressUs: toUs(ingressSeconds, acked.requests),
      workerUs: toUs(workerSeconds, waiting),
      redisUs: toUs((await redisSeconds()) - before, acked.requests),
    };
  });
}

/** The target with the keys of so many projects, in turns. */
async function withPartners({ databaseUrl }: Place, target: Target, { partners, isZipf }: Case): Promise<Target> {
  if (partners === 1) return target;
  const store = createStore({ databaseUrl, poolSize: 4, applicationName: 'bench' });
  const names = Array.from({ length: partners }, (_, i) => `partner ${i}`);
  const created: { apiKey: string }[] = [];
  for (const some of slice(names, CREATED_AT_ONCE)) {
    created.push(...(await Promise.all(some.map((name) => store.projects.create(name)))));
  }
  await store.close();
  const keys = created.map(({ apiKey }) => apiKey);
  return { ...target, turns: isZipf ? toZipf(keys) : keys };
}

/** The k-th key comes in proportion to 1/k, in an order that repeats from run to run. */
function toZipf(keys: string[]): string[] {
  const harmonic = keys.reduce((sum, _key, i) => sum + 1 / (i + 1), 0);
  const turns = keys.flatMap((key, i) => Array<string>(Math.max(1, Math.round(TURNS / harmonic / (i + 1)))).fill(key));
  let seed = 1;
  const random = () => {
    seed = (seed * 48_271) % 2_147_483_647; // Park and Miller's minimal standard
    return seed / 2_147_483_647;
  };
  return turns
    .map((key) => ({ key, place: random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ key }) => key);
}

async function measureSynchronous(place: Place, seconds: number): Promise<number> {
  const target = await synchronous.start(place);
  await warmUp(target);
  const run = await runCounted(place, { target, seconds, customers: 'new' }, synchronous.countAccepted.new);
  return run.requests / run.seconds;
}
