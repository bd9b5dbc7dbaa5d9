import { setTimeout as delay } from 'node:timers/promises';
import { withRedis } from '@opm/testkit';
import type { Count } from '../contenders.js';
import type { Place } from '../servers.js';
import {
  hasWrk,
  KNOWN_IDS,
  type Load,
  type LoadResult,
  loadWithAutocannon,
  loadWithWrk,
  type Measured,
  type Stream,
  type Target,
} from './generators.js';

export const CONNECTIONS = 100;
/** Batches need few connections, and all their entries in flight must fit into PENDING_MAX_ENTRIES. */
export const BATCH_CONNECTIONS = 10;
const WARM_UP_SECONDS = 15;

type Kind = Pick<Load, 'batch' | 'isKeyed' | 'connections'>;

let runs = 0;

/**
 * Sends entries over 100 connections, or batches over 10.
 * @throws Error if any request is not answered with 2xx, since the measurement is then void
 */
export async function runLoad(load: Load): Promise<LoadResult> {
  const way = load.batch
    ? { path: '/entries', connections: load.connections ?? BATCH_CONNECTIONS }
    : { path: '/entry', connections: load.connections ?? CONNECTIONS };
  const targets = [load.target, ...(load.besides ?? [])];
  const connections = Math.ceil(way.connections / targets.length);
  const parts = await Promise.all(
    targets.map((target) => send({ ...load, ...way, connections, target, ids: toIds(load) })),
  );
  const { refused, socketErrors, ...result } = parts.reduce(combine);
  if (refused > 0 || socketErrors > 0 || result.requests === 0) {
    throw new Error(
      `of ${result.requests} requests, ${refused} were refused and ${socketErrors} failed with a connection error`,
    );
  }
  return result;
}

/** Combines simultaneous loads; the latencies are those of the slower one. */
const combine = (a: Measured, b: Measured): Measured => ({
  requests: a.requests + b.requests,
  seconds: Math.max(a.seconds, b.seconds),
  refused: a.refused + b.refused,
  socketErrors: a.socketErrors + b.socketErrors,
  p50Ms: Math.max(a.p50Ms, b.p50Ms),
  p99Ms: Math.max(a.p99Ms, b.p99Ms),
});

/** A new prefix for each run with new customers. */
const toIds = ({ customers }: Load) => (customers === 'new' ? `new${runs++}-` : KNOWN_IDS);

/** wrk is written in C and takes little of the CPU that it shares with the contenders; autocannon takes half. */
async function send(stream: Stream): Promise<Measured> {
  return (await hasWrk()) ? loadWithWrk(stream) : loadWithAutocannon(stream);
}

/**
 * Gives the target time to compile its hot code.
 * @param kind as in a load
 */
export const warmUp = (target: Target, kind: Kind = {}) =>
  runLoad({ target, seconds: WARM_UP_SECONDS, customers: 'new', ...kind });

/** The generator's name in the report. */
export const describeGenerator = async () => ((await hasWrk()) ? 'wrk' : 'autocannon');

const MAX_SLICE_SECONDS = 10;
const MAX_SECONDS = 900;

/**
 * Sends at least `requests` requests about new customers, in slices, because load generators count in seconds.
 * @param kind as in a load
 * @returns how many were sent
 * @throws Error if that takes more than 15 minutes
 */
export async function loadUntil(target: Target, requests: number, kind: Kind = {}): Promise<number> {
  let sent = 0;
  let seconds = 0;
  while (sent < requests) {
    if (seconds > MAX_SECONDS) throw new Error(`only ${sent} of ${requests} requests after ${seconds} s`);
    const left = sent > 0 ? Math.ceil(((requests - sent) / sent) * seconds) : 1;
    const slice = await runLoad({ target, seconds: Math.min(left, MAX_SLICE_SECONDS), customers: 'new', ...kind });
    sent += slice.requests;
    seconds += slice.seconds;
  }
  return sent;
}

const QUIET_MS = 250;

/**
 * Runs a load and compares its acknowledgements with the accepted entries, if these can be counted. The end of the load
 * cuts off at most one request per connection; these may be accepted without an acknowledgement.
 * @param run sends the load; measurements taken inside it exclude the counting
 * @throws Error if the numbers do not match
 */
export async function runCounted(
  place: Place,
  load: Load,
  count: Count | undefined,
  run: (load: Load) => Promise<LoadResult> = runLoad,
): Promise<LoadResult> {
  if (!count) return run(load);
  const before = await countWhenStable(place, count);
  const result = await run(load);
  const accepted = (await countWhenStable(place, count)) - before;
  const { batch = 1, connections = CONNECTIONS } = load;
  if (accepted < result.requests * batch || accepted > (result.requests + connections) * batch) {
    throw new Error(`${result.requests * batch} entries were acknowledged, but ${accepted} accepted`);
  }
  return result;
}

/** Counts once entries in flight from an earlier load are accepted too. */
async function countWhenStable(place: Place, count: Count): Promise<number> {
  for (let last = -1; ; ) {
    const now = await count(place);
    if (now === last) return now;
    last = now;
    await delay(QUIET_MS);
  }
}

/** CPU seconds that this Redis has used since it started. */
export async function readRedisSeconds(redisUrl: string): Promise<number> {
  const cpu = await withRedis(redisUrl, (redis) => redis.info('cpu'));
  const secondsOf = (what: string) => Number(new RegExp(`^used_cpu_${what}:([\\d.]+)`, 'm').exec(cpu)?.[1]);
  return secondsOf('user') + secondsOf('sys');
}
