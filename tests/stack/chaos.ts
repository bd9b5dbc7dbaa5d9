import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ChaosOptions, type ChaosResult, checkRows, runChaos } from '@opm/chaos';

const FAULTS = 6;
const ENTRIES = 2_000;
/** Entries per second while there are faults: so few that half a core keeps up with them. */
const RATE = 50;
const NEVER = new AbortController().signal;

// As wide as the patience of the clients of chaos allows.
process.env.ANSWER_TIMEOUT_MS = '3000';

/**
 * The tests of a run of chaos, a file for each queue.
 * @param seed draws the faults; `npm run chaos` draws one of its own, and does more
 */
export const describeChaos = (queue: ChaosOptions['queue'], { seed }: { seed: number }) =>
  describe(`with the queue on ${queue},`, () => {
    let directory: string;
    let result: ChaosResult;

    beforeAll(async () => {
      directory = await mkdtemp(join(tmpdir(), 'opm-chaos-'));
      result = await runChaos({
        ...{ faults: FAULTS, entries: ENTRIES, rate: RATE, seed, keyed: 4, queue, directory },
        onProgress: () => {},
        ...{ signal: NEVER, giveUp: NEVER, maxRecoveryMs: 900_000 }, // a slow machine takes its time here, too
      });
    }, 3_600_000); // a slow machine takes its time
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
