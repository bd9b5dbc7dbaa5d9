import { createStore } from '@opm/store';
import { median, type TestApp, toTable, toWhole } from '@opm/testkit';
import { project, startProject, startProjectWorker, synchronous } from '../contenders.js';
import type { Target } from '../load/generators.js';
import { readRedisSeconds, runCounted, runLoad, warmUp } from '../load/run-load.js';
import { countWaiting, openProjectQueue, waitUntilEmpty } from '../queues.js';
import { type Report, toRatios, type Verdict, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { makeEntries, persistWithTextbook, slice, stopCleanly, timeDrain } from './drain.js';
import { loadAndPersist, toFigure } from './sustained.js';

type PartnersOptions = { partners: number; seconds: number; rounds: number };

type Case = { queue: 'Redis' | 'PostgreSQL'; partners: number; isZipf?: true };

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
  const cases: Case[] = (['Redis', 'PostgreSQL'] as const).flatMap((queue) =>
    [...new Set(counts.map(Math.round))]
      .map((count): Case => ({ queue, partners: count }))
      .concat({ queue, partners, isZipf: true }),
  );
  const runs = new Map<string, Run[]>(cases.map((it) => [nameOf(it), []]));
  const peers = { synchronous: [] as number[], textbook: [] as number[] };
  for (let round = 1; round <= rounds; round++) {
    // In turns, because the machine may become slower or faster.
    for (const it of round % 2 === 1 ? cases : cases.toReversed()) {
      const run = await servers.inFreshPlace((place) => measureCase(place, it, seconds));
      runs.get(nameOf(it))?.push(run);
      const { acks, drain, both } = run;
      console.log(
        `round ${round}: ${nameOf(it)}: ${[acks, drain, both].map(toWhole).join(', ')} acknowledged, drained, both per second`,
      );
    }
    peers.synchronous.push(await servers.inFreshPlace((place) => measureSynchronous(place, seconds)));
    peers.textbook.push(await servers.inFreshPlace(measureTextbook));
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

async function measureCase(fresh: Place, it: Case, seconds: number): Promise<Run> {
  const place: Place = it.queue === 'PostgreSQL' ? { ...fresh, queue: 'postgres' } : fresh;
  const ingress = await startProject(place);
  const target = await withPartners(place, ingress, it);
  await warmUp(target);
  const opened = await openProjectQueue(place);
  await opened.queue.pause();
  const readUsage = async () => ({
    ingress: await readCpu(ingress),
    redis: it.queue === 'Redis' ? await readRedisSeconds(place.redisUrl) : Number.NaN,
  });

  let [before, after] = [await readUsage(), await readUsage()];
  const load = { target, seconds, customers: 'new' as const };
  const acked = await runCounted(place, load, project.countAccepted.new, async (given) => {
    before = await readUsage();
    const result = await runLoad(given);
    after = await readUsage();
    return result;
  });
  const waiting = await countWaiting(opened);
  const worker = await startProjectWorker(place);
  const workerBefore = await readCpu(worker);
  const drainSeconds = await timeDrain(opened);
  const workerSeconds = (await readCpu(worker)) - workerBefore;

  const sustained = await loadAndPersist(place, load, () => waitUntilEmpty(opened));
  const acks = acked.requests / acked.seconds;
  const { p99Ms } = await runLoad({ ...load, rate: acks / 2 });
  await waitUntilEmpty(opened);
  await stopCleanly(worker);
  await opened.close();
  const toUs = (some: number, entries: number) => (some / entries) * 1e6;
  return {
    acks,
    drain: waiting / drainSeconds,
    both: toFigure(sustained),
    p99Ms,
    ingressUs: toUs(after.ingress - before.ingress, acked.requests),
    redisUs: toUs(after.redis - before.redis, acked.requests),
    workerUs: toUs(workerSeconds, waiting),
  };
}

const readCpu = ({ readMetric }: Pick<TestApp, 'readMetric'>) => readMetric('process_cpu_seconds_total');

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
