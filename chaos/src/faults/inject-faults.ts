import { setTimeout as delay } from 'node:timers/promises';
import { shardOf } from '@opm/queue';
import { waitFor } from '@opm/testkit';
import pg from 'pg';
import { request } from 'undici';
import type { Random } from '../random.js';
import type { Stack } from '../stack/stack.js';
import { EVERYTHING, type Fault, HOST_FAULTS, LINK_FAULTS, PROCESS_FAULTS } from './faults.js';
import { POSTGRES_FAULTS } from './postgres-faults.js';
import { createClusterFaults, createRedisFaults, EMPTY_STORE } from './redis-faults.js';

/**
 * One fault, or two simultaneous ones. Times are in ms on the ledger's clock; a time that was not reached is missing.
 */
export type Round = { faults: string[]; startedAt: number; repairedAt?: number; recoveredAt?: number };

type Options = {
  faults: number;
  random: Random;
  /** How long the stack may take to recover after each round, in ms. */
  maxRecoveryMs: number;
  onStart: (round: Round) => void;
  /** Also called for a round whose faults could not be repaired; that round is the last one. */
  onEnd: (round: Round) => Promise<void>;
  signal: AbortSignal;
};

/** The longest pause between two rounds, so that requests are in flight at the next fault. */
const MAX_PAUSE_MS = 1_000;

/**
 * Injects faults in rounds; each round starts when the stack has recovered from the one before.
 * @throws Error if the stack does not recover
 */
export async function injectFaults(
  stack: Stack,
  { faults, random, maxRecoveryMs, onStart, onEnd, signal }: Options,
): Promise<void> {
  const draw = createFaultDraw(stack, random);
  for (let left = faults; left > 0 && !signal.aborted; ) {
    await delay(random.between(0, MAX_PAUSE_MS));
    const drawn = draw(left);
    const round: Round = { faults: drawn.map(({ name }) => name), startedAt: performance.now() };
    onStart(round);
    try {
      await Promise.all(drawn.map(runFault));
      round.repairedAt = performance.now();
      await waitUntilRecovered(stack, maxRecoveryMs);
      round.recoveredAt = performance.now();
    } finally {
      await onEnd(round);
    }
    left -= drawn.length;
  }
}

async function runFault({ name, run }: Fault): Promise<void> {
  await run().catch((cause: Error) => {
    throw new Error(`${name} could not be injected or repaired: ${cause.message}`, { cause });
  });
}

/** Share of the rounds with two simultaneous faults. */
const PERCENT_PAIRS = 25;

/** Returns a function that draws the next round: one or two faults, at most `left`. */
function createFaultDraw(stack: Stack, random: Random): (left: number) => Fault[] {
  const redisFaults = stack.redis ? createRedisFaults(stack.redis) : [];
  const clusterFaults = stack.cluster ? createClusterFaults(stack.cluster) : [];
  const kinds = [
    ...[...PROCESS_FAULTS, ...LINK_FAULTS, ...POSTGRES_FAULTS, ...HOST_FAULTS, EMPTY_STORE],
    ...[...redisFaults, ...clusterFaults],
  ];
  const weighted = kinds.flatMap((kind) => Array.from({ length: kind.weight }, () => kind));
  const draw = () => random.pick(weighted).draw(stack, random);
  return (left) => {
    const first = draw();
    if (left < 2 || !random.chance(PERCENT_PAIRS)) return [first];
    let second = draw();
    while (interfere(first, second)) second = draw();
    return first.victim === EVERYTHING ? [first] : [first, second];
  };
}

/** Two faults of the same process or connection would interfere. */
function interfere({ victim: a }: Fault, { victim: b }: Fault): boolean {
  return b === EVERYTHING || a.includes(b) || b.includes(a);
}

const PROBE_TIMEOUT_MS = 5_000;
let probes = 0;

/**
 * Resolves when partners and operators no longer see an effect of the fault: every process is ready, every ingress
 * acknowledges an entry for each shard, these entries are rows, and every pair of a cluster is whole again.
 * @throws Error if one of these takes longer than `maxMs`
 */
async function waitUntilRecovered(stack: Stack, maxMs: number): Promise<void> {
  const { urls, postgres, probing, ingresses, workers, queue, cluster } = stack;
  const options = (what: string) => ({ description: `${what} after the fault`, timeoutMs: maxMs });
  const { apiKey, projectId } = probing;
  const probe = async (url: string, shard: number) => {
    const customerId = nextProbe(projectId, shard, queue.shards);
    await waitFor(() => isAcknowledged(url, apiKey, customerId), options('acknowledgements'));
    return customerId;
  };
  const shards = Array.from({ length: queue.shards }, (_, shard) => shard);
  const [ids] = await Promise.all([
    Promise.all(urls.flatMap((url) => shards.map((shard) => probe(url, shard)))),
    cluster?.waitUntilWhole(),
    ...[...ingresses, ...workers].map(({ name, isReady }) => waitFor(isReady, options(`${name} to be ready`))),
  ]);
  await waitFor(() => areStored(postgres.url, projectId, ids), options('rows'));
}

function nextProbe(projectId: number, shard: number, shards: number): string {
  for (;;) {
    const customerId = `probe-${++probes}`;
    if (shardOf(projectId, customerId, shards) === shard) return customerId;
  }
}

async function isAcknowledged(url: string, apiKey: string, customerId: string): Promise<boolean> {
  const { statusCode, body } = await request(`${url}/entry`, {
    method: 'POST',
    headers: { 'x-api-key': apiKey },
    body: JSON.stringify({ customerId, customerPhone: '+1' }),
    reset: true, // A new connection each time: a reused one may be broken.
    headersTimeout: PROBE_TIMEOUT_MS,
    bodyTimeout: PROBE_TIMEOUT_MS,
  });
  await body.dump();
  return statusCode === 201 || statusCode === 202;
}

async function areStored(databaseUrl: string, projectId: number, ids: string[]): Promise<boolean> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: PROBE_TIMEOUT_MS });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rowCount } = await client.query('SELECT FROM customers WHERE project_id = $1 AND customer_id = ANY($2)', [
      projectId,
      ids,
    ]);
    return rowCount === ids.length;
  } finally {
    await client.end();
  }
}
