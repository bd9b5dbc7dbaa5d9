import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ChaosOptions, type ChaosResult, runChaos } from '@opm/chaos';
import { checkRows } from '@opm/chaos/check-rows';

const FAULTS = 6;
const ENTRIES = 2_000;
/** Entries per second during the faults: few enough for half a core. */
const RATE = 50;
const NEVER = new AbortController().signal;

/** For a slow machine. */
const APP_ENV = {
  ANSWER_TIMEOUT_MS: '3000', // less than the chaos clients wait for an answer, 4 s
  // A worker may need seconds to renew its locks. If it loses them, the jobs run twice, and the machine has even more
  // to do.
  JOB_LOCK_MS: '15000',
  // A machine that stores fewer than RATE entries per second can still store this backlog within `maxRecoveryMs`.
  BACKLOG_MAX_ENTRIES: '1000',
};

/**
 * Defines the tests of one chaos run. Each queue store has its own file.
 * @param seed draws the faults; `npm run chaos` draws a new seed and injects more faults
 */
export const describeChaos = (queue: ChaosOptions['queue'], { seed }: { seed: number }) =>
  describe(`with the queue on ${queue},`, () => {
    let directory: string;
    let result: ChaosResult;

    beforeAll(async () => {
      directory = await mkdtemp(join(tmpdir(), 'opm-chaos-'));
      result = await runChaos({
        ...{ faults: FAULTS, entries: ENTRIES, rate: RATE, seed, keyed: 4, queue, directory, appEnv: APP_ENV },
        onProgress: () => {},
        ...{ signal: NEVER, giveUp: NEVER, maxRecoveryMs: 900_000 }, // Slow machines need more time.
      });
    }, 3_600_000); // Slow machines need more time.
    afterAll(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));

    test('no promise is broken while processes and connections fail at random', () => {
      expect(result.findings).toEqual([]);
      expect(result.rounds.flatMap(({ faults }) => faults)).toHaveLength(FAULTS);
      const sent = [...result.evidence.customers.values()].flat();
      expect(sent.filter(({ outcome }) => outcome === 'acknowledged').length).toBeGreaterThan(ENTRIES);
      expect(sent.filter(({ isReplayed }) => isReplayed).length).toBeGreaterThan(0);
      expect(result.receipts).toBeGreaterThan(ENTRIES);
    });

    test('the check would find a row that is missing or altered', () => {
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
