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

/** Runs of new customers never share one, not even with an earlier benchmark on the same database. */
const toIds = ({ customers }: Load) => (customers === 'new' ? `new-${Date.now().toString(36)}-${runs++}-` : KNOWN_IDS);

/** wrk, being written in C, takes little of the processor that it shares with the contenders; autocannon takes half. */
async function send(stream: Stream): Promise<Measured> {
  return (await hasWrk()) ? loadWithWrk(stream) : loadWithAutocannon(stream);
}

/** How the report names the generator. */
export const describeGenerator = async () => ((await hasWrk()) ? 'wrk' : 'autocannon');
