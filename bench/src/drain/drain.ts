import type { CustomerEntry } from '@opm/core';
import { query } from '@opm/testkit';
import { type Report, type Result, runsOf, toRateTable } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { writeAtCeiling } from './ceiling.js';
import { makeEntries } from './entries.js';
import { persistWithTextbook } from './persist-with-textbook.js';
import { persistWithWorker } from './persist-with-worker.js';

export type DrainOptions = { entries: number; textbookEntries: number; rounds: number };

/** Persists the entries and says how many seconds that took, without what it takes to start and to fill the queue. */
type Drainer = { name: string; persist(place: Place, entries: CustomerEntry[]): Promise<number>; count: number };

const PASSES = ['new', 'updates'];

/** How long a backlog takes to become rows: new customers, and the same ones again. */
export async function measureDrain(servers: Servers, options: DrainOptions): Promise<Report> {
  const { entries, textbookEntries, rounds } = options;
  const drainers: Drainer[] = [
    { name: 'this project', persist: persistWithWorker, count: entries },
    {
      name: 'plain pg from memory',
      persist: ({ databaseUrl }, all) => writeAtCeiling(databaseUrl, all),
      count: entries,
    },
    { name: 'textbook worker', persist: persistWithTextbook, count: textbookEntries },
  ];
  const results = PASSES.flatMap((what) =>
    drainers.map(({ name }): Result => ({ contender: name, what, perSecond: [] })),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const { name, persist, count } of drainers) {
      await servers.inFreshPlace(async (place) => {
        for (const [pass, what] of PASSES.entries()) {
          const seconds = await persist(place, makeEntries(count, pass));
          await assertRows(place.databaseUrl, count, pass);
          runsOf(results, name, what).push(count / seconds);
          console.log(`round ${round}: ${name}, ${what}: ${count} entries in ${seconds.toFixed(2)} s`);
        }
      });
    }
  }
  return { name: 'drain', tables: toRateTable(results, 'this project', 'entries/s'), verdicts: [] };
}

/** A fast answer that is wrong counts for nothing. */
async function assertRows(databaseUrl: string, count: number, pass: number): Promise<void> {
  const text = 'SELECT count(*)::int AS count FROM customers WHERE email LIKE $1';
  const [row] = await query<{ count: number }>(databaseUrl, text, [`%.${pass}@example.com`]);
  if (row?.count !== count) throw new Error(`${row?.count} rows are right, not ${count}`);
}
