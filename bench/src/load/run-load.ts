import type { Target } from '../contenders.js';
import { loadWithAutocannon } from './autocannon.js';
import { hasWrk, loadWithWrk } from './wrk.js';

export type Load = {
  target: Target;
  /** Others of its kind, which get the same part of the connections as it does. */
  besides?: Target[];
  seconds: number;
  /** Each entry about a new customer, or about one of the first n of `fillCustomers`. */
  customers: 'new' | { known: number };
  /** Requests per second over all connections, where it should not be all that the target can do. */
  rate?: number;
  /** Entries per request, to POST /entries; otherwise each goes to POST /entry by itself. */
  batch?: number | undefined;
  /** Over how many connections; 100 unless given, or 10 for batches. */
  connections?: number;
};

export type LoadResult = { requests: number; seconds: number; p50Ms: number; p99Ms: number };

/** What a load generator reports. */
export type Measured = LoadResult & { refused: number; socketErrors: number };

/** A load as the generators take it. */
export type Stream = Load & { path: string; connections: number; ids: string; thinkMs?: number };

/** What the ids of stored customers begin with; ten digits follow. */
export const KNOWN_IDS = 'known-';
export const CONNECTIONS = 100;
/** Those who send batches need few, and all their entries at once are meant to fit into PENDING_MAX_ENTRIES. */
const BATCH_CONNECTIONS = 10;
const WARM_UP_SECONDS = 5;

let runs = 0;

/**
 * Sends entries over 100 connections, or batches over 10.
 * @throws Error when a single request is not answered with 2xx: then nothing has been measured
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
  const { refused, socketErrors, ...result } = parts.reduce(sumUp);
  if (refused > 0 || socketErrors > 0 || result.requests === 0) {
    throw new Error(
      `of ${result.requests} requests ${refused} were refused and ${socketErrors} met a broken connection`,
    );
  }
  return result;
}

/** Loads that ran at the same time; the latencies are those of the slower one. */
const sumUp = (a: Measured, b: Measured): Measured => ({
  requests: a.requests + b.requests,
  seconds: Math.max(a.seconds, b.seconds),
  refused: a.refused + b.refused,
  socketErrors: a.socketErrors + b.socketErrors,
  p50Ms: Math.max(a.p50Ms, b.p50Ms),
  p99Ms: Math.max(a.p99Ms, b.p99Ms),
});

/** No two runs of new customers share one. */
const toIds = ({ customers }: Load) => (customers === 'new' ? `new${runs++}-` : KNOWN_IDS);

/** wrk, being written in C, takes little of the processor that it shares with the contenders; autocannon takes half. */
async function send(stream: Stream): Promise<Measured> {
  return (await hasWrk()) ? loadWithWrk(stream) : loadWithAutocannon(stream);
}

/** Lets the target compile what is hot. @param batch as in a load */
export const warmUp = (target: Target, { batch }: Pick<Load, 'batch'> = {}) =>
  runLoad({ target, seconds: WARM_UP_SECONDS, customers: 'new', batch });

/** How the report names the generator. */
export const describeGenerator = async () => ((await hasWrk()) ? 'wrk' : 'autocannon');
