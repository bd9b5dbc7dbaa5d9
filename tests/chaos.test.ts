import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ChaosResult, checkRows, runChaos } from '@opm/chaos';

const FAULTS = 6;
const ENTRIES = 2_000;
/** `npm run chaos` draws a seed of its own, and does more. */
const SEEDS = {
  /** Draws kills of every kind of process, a freeze, Redis filled, and a connection that is cut or slowed down. */
  redis: 38632,
  postgres: 38632,
  /** Draws masters that are killed and frozen until their replicas take over, one that hands over, and a killed replica. */
  cluster: 4665,
};
const NEVER = new AbortController().signal;

describe.each(['redis', 'postgres', 'cluster'] as const)('with the queue on %s,', (queue) => {
  let directory: string;
  let result: ChaosResult;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'opm-chaos-'));
    result = await runChaos({
      ...{ faults: FAULTS, entries: ENTRIES, rate: 200, seed: SEEDS[queue], keyed: 4, queue, directory },
      onProgress: () => {},
      ...{ signal: NEVER, giveUp: NEVER },
    });
  }, 900_000);
  afterAll(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));

  test('no promise is broken while processes and connections fail at random', () => {
    expect(result.findings).toEqual([]);
    expect(result.rounds.flatMap(({ faults }) => faults)).toHaveLength(FAULTS);
    const sent = [...result.evidence.customers.values()].flat();
    expect(sent.filter(({ outcome }) => outcome === 'acknowledged').length).toBeGreaterThan(ENTRIES);
    expect(sent.filter(({ isReplayed }) => isReplayed).length).toBeGreaterThan(0);
  });

  test('of what it has seen, a row that is taken away or altered would have been found', () => {
    const { customers, rows } = result.evidence;
    const isPlain = (customerId: string) =>
      customers.get(customerId)?.every(({ erases, outcome }) => !erases && outcome === 'acknowledged');
    const [first = '', second = ''] = [...rows.keys()].filter(isPlain);
    const altered = new Map(rows).set(second, { ...rows.get(second), email: 'e0' });
    altered.delete(first);
    const found = checkRows(customers, altered).map(({ rule, customerId }) => `${rule} ${customerId}`);
    expect(new Set(found)).toEqual(new Set([`lost ${first}`, `wrong ${second}`]));
  });
});
