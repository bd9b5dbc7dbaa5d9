import { createStore } from '@opm/store';
import { median, type TestApp, toTable, toWhole } from '@opm/testkit';
import { project, startProject, startProjectWorker, synchronous } from '../contenders.js';
import type { Load, Target } from '../load/generators.js';
import { readRedisSeconds, runCounted, runLoad, warmUp } from '../load/run-load.js';
import { countWaiting, type OpenQueue, openProjectQueue, waitUntilEmpty } from '../queues.js';
import { type Report, toRatios, type Verdict, withRounds } from '../report.js';
import { inFreshPlaces, type Place, type Servers } from '../servers.js';
import { makeEntries, persistWithTextbook, slice, stopCleanly, timeDrain } from './drain.js';
import { loadAndPersist, toFigure } from './sustained.js';

type PartnersOptions = { partners: number; seconds: number; rounds: number };

const QUEUES = ['Redis', 'PostgreSQL'] as const;

type Case = { queue: (typeof QUEUES)[number]; partners: number; isZipf?: true };

/** Result of one run. Rates are entries per second; CPU is in µs per entry. */
type Run = {
  acks: number;
  drain: number;
  /** The lower of the rates of acknowledging and of persisting while a worker runs. */
  both: number;
  /** Latency of an acknowledgement at half of `acks` while a worker runs. */
  p99Ms: number;
  ingressUs: number;
  redisUs: number;
  workerUs: number;
};

const NO_FIGURES: Run = { acks: 0, drain: 0, both: 0, p99Ms: 0, ingressUs: 0, redisUs: 0, workerUs: 0 };

/** Number of projects to create concurrently. */
const CREATED_AT_ONCE = 50;
/** Number of requests after which the Zipf-distributed keys repeat. */
const TURNS = 20_000;
const TEXTBOOK_ENTRIES = 20_000;

/** Measures whether a thousand partners are as fast as one: acknowledging, and persisting with one worker. */
export async function measurePartners(
  servers: Servers,
  { partners, seconds, rounds }: PartnersOptions,
): Promise<Report> {
  const counts = [1, partners / 100, partners / 10, partners, 10 * partners].filter((count) => count >= 1);
  const cases: Case[] = QUEUES.flatMap((queue) =>
    [...new Set(counts.map(Math.round))]
      .map((count): Case => ({ queue, partners: count }))
      .concat({ queue, partners, isZipf: true }),
  );
  const runs = new Map<string, Run[]>(cases.map((it) => [nameOf(it), []]));
  const peers = { synchronous: [] as number[], textbook: [] as number[] };
  for (const queue of QUEUES) {
    const ofQueue = cases.filter((it) => it.queue === queue);
    await inFreshPlaces(servers, ofQueue.length, async (places) => {
      const sides: Side[] = [];
      for (const [i, it] of ofQueue.entries()) sides.push(await startSide(places[i] as Place, it, seconds));
      for (let round = 1; round <= rounds; round++) {
        // Every second round in reverse, because the machine may become slower or faster.
        await measureRound(round % 2 === 1 ? sides : sides.toReversed());
        for (const { it, run } of sides) {
          runs.get(nameOf(it))?.push({ ...run });
          const figures = [run.acks, run.drain, run.both].map(toWhole).join(', ');
          console.log(`round ${round}: ${nameOf(it)}: ${figures} acknowledged, drained, both per second`);
        }
        if (queue === 'Redis') peers.textbook.push(await servers.inFreshPlace(measureTextbook));
        else peers.synchronous.push(await servers.inFreshPlace((place) => measureSynchronous(place, seconds)));
      }
      for (const { worker, opened } of sides) {
        await stopCleanly(worker);
        await opened.close();
      }
    });
  }
  const figures = (name: keyof Run, it: Case) => (runs.get(nameOf(it)) ?? []).map((run) => run[name]);
  const toOne = (name: keyof Run, it: Case) => toRatios(figures(name, it), figures(name, { ...ONE, queue: it.queue }));
  const [onRedis, onPostgres]: [Case, Case] = [
    { queue: 'Redis', partners },
    { queue: 'PostgreSQL', partners },
  ];
  const expect = (measure: string, atLeast: number, ratios: number[]): Verdict => ({
    measure,
    expected: { atLeast },
    measured: median(ratios),
    ratios,
  });
  return {
    name: 'partners',
    tables: withRounds(
      toTable(
        ['queue', '#partners', ...COLUMNS.map(([title]) => `#${title}`)],
        cases.map((it) => [
          it.queue,
          toPartners(it),
          ...COLUMNS.map(([, name, toText]) => toText(median(figures(name, it)))),
        ]),
      ),
      rounds,
    ),
    verdicts: [
      expect(`acks on Redis, ${partners} partners ÷ 1`, 0.9, toOne('acks', onRedis)),
      expect(`acks on Redis, ${partners}, Zipf-distributed ÷ 1`, 0.9, toOne('acks', { ...onRedis, isZipf: true })),
      expect(`acks on Redis, ${10 * partners} ÷ 1`, 0.8, toOne('acks', { ...onRedis, partners: 10 * partners })),
      expect(`drain on Redis, ${partners} ÷ 1`, 0.85, toOne('drain', onRedis)),
      expect(`acknowledged and persisted on Redis, ${partners} ÷ 1`, 0.85, toOne('both', onRedis)),
      expect(`acks on PostgreSQL, ${partners} ÷ 1`, 0.8, toOne('acks', onPostgres)),
      expect(`drain on PostgreSQL, ${partners} ÷ 1`, 0.8, toOne('drain', onPostgres)),
      expect(
        `acknowledged and persisted on PostgreSQL, ${partners} ÷ synchronous`,
        3,
        toRatios(figures('both', onPostgres), peers.synchronous),
      ),
      expect(`drain on Redis, ${partners} ÷ textbook`, 20, toRatios(figures('drain', onRedis), peers.textbook)),
    ],
  };
}

const ONE = { partners: 1 };

const toTenths = (figure: number) => (Number.isNaN(figure) ? '–' : figure.toFixed(1));
const COLUMNS: [title: string, name: keyof Run, toText: (figure: number) => string][] = [
  ['acks/s', 'acks', toWhole],
  ['drained/s', 'drain', toWhole],
  ['both/s', 'both', toWhole],
  ['p99 ms at half load', 'p99Ms', toTenths],
  ['ingress µs', 'ingressUs', toTenths],
  ['Redis µs', 'redisUs', toTenths],
  ['worker µs', 'workerUs', toTenths],
];

const toPartners = ({ partners, isZipf }: Case) => `${toWhole(partners)}${isZipf ? ', Zipf' : ''}`;
const nameOf = (it: Case) => `${it.queue}, ${toPartners(it)} partners`;

type Measurable = Pick<TestApp, 'readMetric'>;

/** A case with its processes, and its figures of this round. */
type Side = { it: Case; place: Place; load: Load; ingress: Measurable; worker: TestApp; opened: OpenQueue; run: Run };

/**
 * Measures the cases beside each other: each phase with all cases before the next phase, so that a case and the one it
 * is compared with are measured within a minute. All processes run from the start, but only one case has load.
 */
async function measureRound(sides: Side[]): Promise<void> {
  for (const phase of [acknowledge, drain, acknowledgeAndPersist, readLatency]) {
    for (const side of sides) Object.assign(side.run, await phase(side));
  }
}

async function startSide(fresh: Place, it: Case, seconds: number): Promise<Side> {
  const place: Place = it.queue === 'PostgreSQL' ? { ...fresh, queue: 'postgres' } : fresh;
  const ingress = await startProject(place);
  const target = await withPartners(place, ingress, it);
  const worker = await startProjectWorker(place);
  const opened = await openProjectQueue(place);
  await warmUp(target);
  await waitUntilEmpty(opened);
  return { it, place, load: { target, seconds, customers: 'new' }, ingress, worker, opened, run: { ...NO_FIGURES } };
}

async function acknowledge({ place, load, ingress, opened }: Side): Promise<Partial<Run>> {
  await opened.queue.pause();
  const readUsage = async () => ({
    ingress: await readCpu(ingress),
    redis: place.queue ? Number.NaN : await readRedisSeconds(place.redisUrl),
  });
  let [before, after] = [await readUsage(), await readUsage()];
  const { requests, seconds } = await runCounted(place, load, project.countAccepted.new, async (given) => {
    before = await readUsage();
    const result = await runLoad(given);
    after = await readUsage();
    return result;
  });
  return {
    acks: requests / seconds,
    ingressUs: toUs(after.ingress - before.ingress, requests),
    redisUs: toUs(after.redis - before.redis, requests),
  };
}

async function drain({ worker, opened }: Side): Promise<Partial<Run>> {
  const waiting = await countWaiting(opened);
  const before = await readCpu(worker);
  const seconds = await timeDrain(opened);
  return { drain: waiting / seconds, workerUs: toUs((await readCpu(worker)) - before, waiting) };
}

async function acknowledgeAndPersist({ place, load, opened }: Side): Promise<Partial<Run>> {
  return { both: toFigure(await loadAndPersist(place, load, () => waitUntilEmpty(opened))) };
}

async function readLatency({ load, opened, run }: Side): Promise<Partial<Run>> {
  const { p99Ms } = await runLoad({ ...load, rate: run.acks / 2 });
  await waitUntilEmpty(opened);
  return { p99Ms };
}

const toUs = (seconds: number, entries: number) => (seconds / entries) * 1e6;
const readCpu = ({ readMetric }: Measurable) => readMetric('process_cpu_seconds_total');

/** Creates `partners` projects and returns the target with their keys, to be used in turn. */
export async function withPartners(
  { databaseUrl }: Place,
  target: Target,
  { partners, isZipf }: Pick<Case, 'partners' | 'isZipf'>,
): Promise<Target> {
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

/** Repeats the k-th key in proportion to 1/k, in an order that is the same in every run. */
function toZipf(keys: string[]): string[] {
  const harmonic = keys.reduce((sum, _key, i) => sum + 1 / (i + 1), 0);
  const turns = keys.flatMap((key, i) => Array<string>(Math.max(1, Math.round(TURNS / harmonic / (i + 1)))).fill(key));
  let seed = 1;
  const random = () => {
    seed = (seed * 48_271) % 2_147_483_647; // The minimal standard generator of Park and Miller.
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

/** Its jobs hold one entry each, so the number of partners makes no difference. */
async function measureTextbook(place: Place): Promise<number> {
  const entries = makeEntries(TEXTBOOK_ENTRIES, 0);
  return entries.length / (await persistWithTextbook(place, entries));
}
