import type { Target } from '../contenders.js';
import { loadWithAutocannon } from './autocannon.js';
import { hasWrk, loadWithWrk } from './wrk.js';

export type Load = {
  target: Target;
  seconds: number;
  /** Each entry about a new customer, or about one of the first n of `fillCustomers`. */
  customers: 'new' | { known: number };
  /** Requests per second over all connections, where it should not be all that the target can do. */
  rate?: number;
};

export type LoadResult = { requests: number; seconds: number; p50Ms: number; p99Ms: number };

/** What a load generator reports. */
export type Measured = LoadResult & { refused: number; socketErrors: number };

/** A load as the generators take it. */
export type Stream = Load & { connections: number; ids: string; thinkMs?: number };

/** What the ids of stored customers begin with; ten digits follow. */
export const KNOWN_IDS = 'known-';
export const CONNECTIONS = 100;
const WARM_UP_SECONDS = 5;

let runs = 0;

/** Sends entries over 100 connections. @throws Error when a single one is not answered with 2xx: then nothing has been measured */
export async function runLoad(load: Load): Promise<LoadResult> {
  const measured = await send({ ...load, connections: CONNECTIONS, ids: toIds(load) });
  const { refused, socketErrors, ...result } = measured;
  if (refused > 0 || socketErrors > 0 || result.requests === 0) {
    throw new Error(
      `of ${result.requests} requests ${refused} were refused and ${socketErrors} met a broken connection`,
    );
  }
  return result;
}

/** No two runs of new customers share one. */
const toIds = ({ customers }: Load) => (customers === 'new' ? `new${runs++}-` : KNOWN_IDS);

/** wrk, being written in C, takes little of the processor that it shares with the contenders; autocannon takes half. */
async function send(stream: Stream): Promise<Measured> {
  return (await hasWrk()) ? loadWithWrk(stream) : loadWithAutocannon(stream);
}

/** Lets the target compile what is hot. */
export const warmUp = (target: Target) => runLoad({ target, seconds: WARM_UP_SECONDS, customers: 'new' });

/** How the report names the generator. */
export const describeGenerator = async () => ((await hasWrk()) ? 'wrk' : 'autocannon');
