import { median, toTable, toWhole } from '@opm/testkit';
import { type Contender, project, startProjectWorker, synchronous } from '../contenders.js';
import { countCustomers } from '../customers.js';
import { runLoad } from '../load/run-load.js';
import { openProjectQueue, waitUntilEmpty } from '../queues.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';

export type SustainedOptions = { seconds: number; rounds: number };

/** Per second of the load. What counts is the lesser of the two: acknowledged, and a row by its end. */
type Sustained = { acked: number; persisted: number };

/** What one ingress and one worker keep up with, all on one machine, next to a program that answers when it has stored. */
export async function measureSustained(servers: Servers, { seconds, rounds }: SustainedOptions): Promise<Report> {
  const runs: Record<'project' | 'synchronous', Sustained[]> = { project: [], synchronous: [] };
  for (let round = 1; round <= rounds; round++) {
    for (const [key, contender] of [
      ['synchronous', synchronous],
      ['project', project],
    ] as const) {
      const run = await servers.inFreshPlace((place) => sustain(place, contender, seconds));
      runs[key].push(run);
      console.log(`round ${round}: ${contender.name}: ${toWhole(run.acked)} acks/s, ${toWhole(run.persisted)} rows/s`);
    }
  }
  const [ours, theirs] = [runs.project.map(toFigure), runs.synchronous.map(toFigure)];
  return {
    name: 'sustained',
    tables: withRounds(
      toTable(
        ['contender', '#acks/s', '#rows/s', '#both/s', `#${project.name} ÷ it`],
        [
          [...toCells(project.name, runs.project), '1.00'],
          [...toCells(synchronous.name, runs.synchronous), medianRatio(ours, theirs).toFixed(2)],
        ],
      ),
      rounds,
    ),
    verdicts: [
      {
        measure: `acknowledged and persisted/s over ${seconds} s ÷ synchronous`,
        expected: { atLeast: 20 },
        measured: medianRatio(ours, theirs),
      },
    ],
  };
}

async function sustain(place: Place, contender: Contender, seconds: number): Promise<Sustained> {
  const target = await contender.start(place);
  const isQueued = contender === project;
  if (isQueued) await startProjectWorker(place);
  const { requests, seconds: took } = await runLoad({ target, seconds, customers: 'new' });
  const rows = await countCustomers(place.databaseUrl);
  if (isQueued) await waitUntilDrained(place);
  const rowsInTheEnd = await countCustomers(place.databaseUrl);
  if (rowsInTheEnd < requests)
    throw new Error(`${requests} entries were acknowledged, but ${rowsInTheEnd} became rows`);
  return { acked: requests / took, persisted: rows / took };
}

async function waitUntilDrained(place: Place): Promise<void> {
  const queue = await openProjectQueue(place);
  await waitUntilEmpty(queue).finally(queue.close);
}

const toFigure = ({ acked, persisted }: Sustained) => Math.min(acked, persisted);

const toCells = (name: string, runs: Sustained[]) => [
  name,
  toWhole(median(runs.map(({ acked }) => acked))),
  toWhole(median(runs.map(({ persisted }) => persisted))),
  toWhole(median(runs.map(toFigure))),
];
