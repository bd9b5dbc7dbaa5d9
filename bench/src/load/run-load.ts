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
const BATCH_CONNECTIONS = 10;
const WARM_UP_SECONDS = 5;

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
export const warmUp = (target: Target, kind: Pick<Load, 'batch' | 'isKeyed'> = {}) =>
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
export async function loadUntil(
  target: Target,
  requests: number,
  kind: Pick<Load, 'batch' | 'isKeyed'> = {},
): Promise<number> {
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
