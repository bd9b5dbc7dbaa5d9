import { toWhole } from '@opm/testkit';
import { countCustomers, project, startIngresses } from '../contenders.js';
import { makeEntries } from '../drain/drain.js';
import { persistWithWorkers } from '../drain/persist.js';
import { runCounted, warmUp } from '../load/run-load.js';
import { type Report, type Result, runsOf, toRatioTable } from '../report.js';
import type { Place, Servers } from '../servers.js';

export type ProcessesOptions = { entries: number; seconds: number; rounds: number };

const COUNTS = [1, 2, 4];
const toName = (count: number) => (count === 1 ? '1 process' : `${count} processes`);

/** Measures the gain from more ingresses and more workers, as processes on one machine with one queue. */
export async function measureProcesses(servers: Servers, options: ProcessesOptions): Promise<Report> {
  const { entries, seconds, rounds } = options;
  const measures: [what: string, measure: (place: Place, count: number) => Promise<number>][] = [
    ['acks/s, ingresses', (place, count) => acknowledge(place, count, seconds)],
    ['persisted/s, workers', (place, count) => persist(place, count, entries)],
  ];
  const results = measures.flatMap(([what]) =>
    COUNTS.map((count): Result => ({ contender: toName(count), what, perSecond: [] })),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const [what, measure] of measures) {
      for (const count of COUNTS) {
        const perSecond = await servers.inFreshPlace((place) => measure(place, count));
        runsOf(results, toName(count), what).push(perSecond);
        console.log(`round ${round}: ${what}, ${toName(count)}: ${toWhole(perSecond)}/s`);
      }
    }
  }
  return { name: 'processes', tables: toRatioTable(results, toName(1), 'entries/s'), verdicts: [] };
}

/** Acknowledged entries per second. No worker runs. */
async function acknowledge(place: Place, count: number, seconds: number): Promise<number> {
  const [target, ...besides] = await startIngresses(place, count);
  await Promise.all([target, ...besides].map((ingress) => warmUp(ingress)));
  const run = await runCounted(place, { target, besides, seconds, customers: 'new' }, project.countAccepted.new);
  return run.requests / run.seconds;
}

async function persist(place: Place, count: number, entries: number): Promise<number> {
  const seconds = await persistWithWorkers(place, makeEntries(entries, 0), count);
  const rows = await countCustomers(place.databaseUrl);
  if (rows !== entries) throw new Error(`${rows} of ${entries} entries became rows`);
  return entries / seconds;
}
