import { median, toTable, toWhole } from '@opm/testkit';
import { type Contender, countCustomers, project, startProjectWorker, synchronous } from '../contenders.js';
import type { Load } from '../load/generators.js';
import { runLoad } from '../load/run-load.js';
import { openProjectQueue, waitUntilEmpty } from '../queues.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';

type SustainedOptions = { seconds: number; rounds: number };

const BATCH = 100;

/** Entries per second of the load: acknowledged, and rows by its end. The lower one counts. */
type Sustained = { acked: number; persisted: number };

/**
 * Measures the rate that one ingress and one worker sustain on one machine, next to a program that answers after
 * storing.
 */
export async function measureSustained(servers: Servers, { seconds, rounds }: SustainedOptions): Promise<Report> {
  const contenders: [name: string, contender: Contender, batch?: number][] = [
    [synchronous.name, synchronous],
    [project.name, project],
    [`${project.name}, in batches of ${BATCH}`, project, BATCH],
  ];
  const runs = new Map<string, Sustained[]>(contenders.map(([name]) => [name, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const [name, contender, batch] of contenders) {
      const run = await servers.inFreshPlace((place) => sustain(place, contender, { seconds, batch }));
      runs.get(name)?.push(run);
      console.log(`round ${round}: ${name}: ${toWhole(run.acked)} acks/s, ${toWhole(run.persisted)} rows/s`);
    }
  }
  const figuresOf = (name: string) => (runs.get(name) ?? []).map(toFigure);
  const toRatio = (name: string) => medianRatio(figuresOf(name), figuresOf(synchronous.name));
  return {
    name: 'sustained',
    tables: withRounds(
      toTable(
        ['contender', '#acks/s', '#rows/s', '#both/s', '#÷ synchronous'],
        [...runs].map(([name, own]) => [...toCells(name, own), toRatio(name).toFixed(2)]),
      ),
      rounds,
    ),
    verdicts: contenders
      .filter(([, contender]) => contender === project)
      .map(([name, , batch]) => ({
        measure: `acknowledged and persisted/s over ${seconds} s${batch ? ` in batches of ${batch}` : ''} ÷ synchronous`,
        expected: { atLeast: 20 },
        measured: toRatio(name),
      })),
  };
}

async function sustain(place: Place, contender: Contender, load: Pick<Load, 'seconds' | 'batch'>): Promise<Sustained> {
  const target = await contender.start(place);
  const isQueued = contender === project;
  if (isQueued) await startProjectWorker(place);
  return loadAndPersist(
    place,
    { target, customers: 'new', ...load },
    isQueued ? () => waitUntilDrained(place) : undefined,
  );
}

/**
 * Runs a load of new customers while a worker runs.
 * @throws Error if fewer entries became rows than were acknowledged
 */
export async function loadAndPersist(
  { databaseUrl }: Place,
  load: Load,
  waitUntilPersisted?: () => Promise<void>,
): Promise<Sustained> {
  const before = await countCustomers(databaseUrl);
  const countRows = async () => (await countCustomers(databaseUrl)) - before;
  const sent = await runLoad(load);
  const requests = sent.requests * (load.batch ?? 1);
  const rows = await countRows();
  await waitUntilPersisted?.();
  const rowsInTheEnd = await countRows();
  if (rowsInTheEnd < requests)
    throw new Error(`${requests} entries were acknowledged, but ${rowsInTheEnd} became rows`);
  return { acked: requests / sent.seconds, persisted: rows / sent.seconds };
}

async function waitUntilDrained(place: Place): Promise<void> {
  const queue = await openProjectQueue(place);
  await waitUntilEmpty(queue).finally(queue.close);
}

export const toFigure = ({ acked, persisted }: Sustained) => Math.min(acked, persisted);

const toCells = (name: string, runs: Sustained[]) => [
  name,
  toWhole(median(runs.map(({ acked }) => acked))),
  toWhole(median(runs.map(({ persisted }) => persisted))),
  toWhole(median(runs.map(toFigure))),
];
