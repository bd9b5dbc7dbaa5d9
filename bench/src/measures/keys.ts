import { median, query, toTable, toWhole, withRedis } from '@opm/testkit';
import { startProject } from '../contenders.js';
import type { LoadResult } from '../load/generators.js';
import { CONNECTIONS, loadUntil, readRedisSeconds, runLoad, warmUp } from '../load/run-load.js';
import { countInShards } from '../queues.js';
import { type Report, toRatios, type Verdict, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { withPartners } from './partners.js';

type KeysOptions = { partners: number; keys: number; seconds: number; rounds: number };

type Case = { queue: 'Redis' | 'PostgreSQL'; shards: number; partners: number };

/** One load. CPU in µs per entry; Redis' is NaN for the queue on PostgreSQL. */
type Run = { acks: number; ingressUs: number; redisUs: number };

/** The loads with and without keys, by round. */
type Pair = { keyed: Run[]; plain: Run[] };

/** Bytes of the store for one key of a single request, and per entry of batches that have one key each. */
type Bytes = { perKey: number; perEntry: number };

const SHARDS = [1, 6];
const BATCH = 1_000;

/**
 * Measures what an idempotency key on each request costs. The loads with and without keys alternate on the same
 * ingress, and the order changes from round to round. No worker runs.
 */
export async function measureKeys(servers: Servers, { partners, keys, ...load }: KeysOptions): Promise<Report> {
  const cases: Case[] = (['Redis', 'PostgreSQL'] as const).flatMap((queue) =>
    SHARDS.flatMap((shards) => [1, partners].map((count) => ({ queue, shards, partners: count }))),
  );
  const rows: Row[] = [];
  for (const it of cases) {
    const pair = await servers.inFreshPlace((place) => comparePair(toPlace(place, it), it, load));
    // The number of partners does not change the bytes.
    const bytes = it.partners === 1 ? await measureBytes(servers, it, keys) : undefined;
    rows.push({ it, pair, bytes });
  }
  return {
    name: 'keys',
    tables: withRounds(toTable(HEADINGS, rows.map(toCells)), load.rounds),
    verdicts: rows.flatMap(judge),
  };
}

const toPlace = (fresh: Place, { queue, shards }: Case): Place => ({
  ...fresh,
  shards,
  ...(queue === 'PostgreSQL' && { queue: 'postgres' as const }),
});
const nameOf = ({ queue, shards, partners }: Case) =>
  `${queue}, ${shards === 1 ? '1 shard' : `${shards} shards`}, ${toWhole(partners)} ${partners === 1 ? 'partner' : 'partners'}`;

async function comparePair(
  place: Place,
  it: Case,
  { seconds, rounds }: Pick<KeysOptions, 'seconds' | 'rounds'>,
): Promise<Pair> {
  const ingress = await startProject(place);
  const target = await withPartners(place, ingress, it);
  const readUsage = async () => ({
    ingress: await ingress.readMetric('process_cpu_seconds_total'),
    redis: it.queue === 'Redis' ? await readRedisSeconds(place.redisUrl) : Number.NaN,
  });
  const done: LoadResult[] = [await warmUp(target, { isKeyed: true }), await warmUp(target)];

  async function run(isKeyed: boolean): Promise<Run> {
    const before = await readUsage();
    const result = await runLoad({ target, seconds, customers: 'new', isKeyed });
    const after = await readUsage();
    done.push(result);
    const toUs = (spent: number) => (spent / result.requests) * 1e6;
    return {
      acks: result.requests / result.seconds,
      ingressUs: toUs(after.ingress - before.ingress),
      redisUs: toUs(after.redis - before.redis),
    };
  }

  const pair: Pair = { keyed: [], plain: [] };
  for (let round = 1; round <= rounds; round++) {
    for (const isKeyed of round % 2 === 0 ? [true, false] : [false, true]) {
      pair[isKeyed ? 'keyed' : 'plain'].push(await run(isKeyed));
    }
    const [keyed, plain] = [pair.keyed, pair.plain].map((runs) => toWhole(runs.at(-1)?.acks ?? 0));
    const [ingress, redis] = [toMore(pair, 'ingressUs'), toMore(pair, 'redisUs')].map((us) => us.at(-1)?.toFixed(1));
    console.log(
      `round ${round}: ${nameOf(it)}: ${keyed} acks/s with keys, ${plain} without; ${ingress} and ${redis} µs more`,
    );
  }
  await checkCount(place, done);
  return pair;
}

/**
 * Compares the waiting entries with the acknowledgements. The end of a load cuts off at most one request per
 * connection.
 * @throws Error if they do not match, such as when a key was taken for a repeat
 */
async function checkCount(place: Place, loads: LoadResult[]): Promise<void> {
  const acknowledged = loads.reduce((sum, { requests }) => sum + requests, 0);
  const accepted = await countInShards(place);
  if (accepted < acknowledged || accepted > acknowledged + loads.length * CONNECTIONS) {
    throw new Error(`${acknowledged} entries were acknowledged, but ${accepted} accepted`);
  }
}

async function measureBytes(servers: Servers, it: Case, keys: number): Promise<Bytes> {
  const measure = (requests: number, batch?: number) =>
    servers.inFreshPlace(async (fresh) => {
      const place = toPlace(fresh, it);
      const target = await startProject(place);
      const empty = await readKeyBytes(place);
      // Two connections with batches: a slow machine would refuse entries of ten.
      const kind = { isKeyed: true, batch, connections: batch && 2 };
      const { requests: warmed } = await warmUp(target, kind);
      if (warmed < requests) await loadUntil(target, requests - warmed, kind);
      // All of these have keys, also the last ones, which have no answer.
      const entries = await countInShards(place);
      return ((await readKeyBytes(place)) - empty) / entries;
    });
  const bytes = { perKey: await measure(keys), perEntry: await measure(Math.ceil(keys / BATCH), BATCH) };
  const { perKey, perEntry } = bytes;
  console.log(`${nameOf(it)}: ${toWhole(perKey)} bytes per key, ${perEntry.toFixed(1)} per entry of a batch`);
  return bytes;
}

/** Bytes of all records of idempotency keys. */
async function readKeyBytes({ queue, databaseUrl, redisUrl, prefix }: Place): Promise<number> {
  if (queue === 'postgres') {
    const [row] = await query<{ bytes: number }>(
      databaseUrl,
      "SELECT pg_total_relation_size('admission.idempotency_records')::float AS bytes",
    );
    return row?.bytes ?? Number.NaN;
  }
  return withRedis(redisUrl, async (redis) => {
    let bytes = 0;
    for await (const found of redis.scanStream({ match: `{${prefix}-*}:keyed*`, count: 1_000 })) {
      for (const key of found) bytes += Number(await redis.memory('USAGE', key, 'SAMPLES', 0));
    }
    return bytes;
  });
}

const HEADINGS = [
  'queue',
  ...['#shards', '#partners', '#acks/s without', '#with', '#with ÷ without', '#ingress µs more', '#Redis µs more'],
  ...['#bytes per key', '#per entry of a batch'],
];

type Row = { it: Case; pair: Pair; bytes: Bytes | undefined };

const figuresOf = (runs: Run[], name: keyof Run) => runs.map((run) => run[name]);

/** What the key costs in each round. */
const toMore = ({ keyed, plain }: Pair, name: keyof Run): number[] =>
  keyed.map((run, round) => run[name] - (plain[round]?.[name] ?? Number.NaN));
const ratiosOf = ({ keyed, plain }: Pair) => toRatios(figuresOf(keyed, 'acks'), figuresOf(plain, 'acks'));

function toCells({ it: { queue, shards, partners }, pair, bytes }: Row): string[] {
  const toTenths = (figure = Number.NaN) => (Number.isNaN(figure) ? '–' : figure.toFixed(1));
  return [
    queue,
    ...[shards, partners, median(figuresOf(pair.plain, 'acks')), median(figuresOf(pair.keyed, 'acks'))].map(toWhole),
    median(ratiosOf(pair)).toFixed(2),
    ...(['ingressUs', 'redisUs'] as const).map((name) => toTenths(median(toMore(pair, name)))),
    bytes ? toWhole(bytes.perKey) : '–',
    toTenths(bytes?.perEntry),
  ];
}

function judge({ it, pair, bytes }: Row): Verdict[] {
  const where = nameOf(it);
  const toVerdict = (measure: string, expected: Verdict['expected'], figures: number[]): Verdict => ({
    measure,
    expected,
    measured: median(figures),
    ratios: figures,
  });
  const verdicts = [toVerdict(`acks/s with keys ÷ without on ${where}`, { atLeast: 0.75 }, ratiosOf(pair))];
  if (it.queue === 'Redis')
    verdicts.push(toVerdict(`Redis µs more per keyed entry, ${where}`, { atMost: 3 }, toMore(pair, 'redisUs')));
  if (bytes) {
    verdicts.push(toVerdict(`bytes per key, ${where}`, { atMost: 140 }, [bytes.perKey]));
    verdicts.push(toVerdict(`bytes per entry of a keyed batch, ${where}`, { atMost: 4 }, [bytes.perEntry]));
  }
  return verdicts;
}
