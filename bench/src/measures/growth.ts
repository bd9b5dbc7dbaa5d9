import type { CustomerEntry } from '@opm/core';
import { median, query, toTable, toWhole } from '@opm/testkit';
import { countCustomers, createProjects, fillCustomers, project, startProjectWorker } from '../contenders.js';
import { KNOWN_IDS, type Target } from '../load/generators.js';
import { runCounted, warmUp } from '../load/run-load.js';
import { createProducer, enqueueAsIngress, openProjectQueue, waitUntilEmpty } from '../queues.js';
import { medianRatio, type Report, type Result, runsOf, toRateTable } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { makeEntries, makeEntry, persistWithWorker, stopCleanly } from './drain.js';

type JobsOptions = { jobs: number };

const PARTS = 10;
/** Number of concurrent enqueues; the backlog stays short. */
const AT_ONCE = 20;
const PROJECTS = 1_000;
const MIB = 1024 * 1024;

/**
 * Measures whether the queue in PostgreSQL stays fast and small however many jobs have passed through it. Each job has
 * one entry.
 */
export function measureJobs(servers: Servers, { jobs }: JobsOptions): Promise<Report> {
  return servers.inFreshPlace(async (fresh) => {
    const place = { ...fresh, queue: 'postgres' as const };
    await createProjects(place.databaseUrl, PROJECTS);
    const worker = await startProjectWorker(place);
    const producer = await createProducer(place);
    const opened = await openProjectQueue(place);
    const perSecond: number[] = [];
    let next = 0;
    for (let part = 1; part <= PARTS; part++) {
      const due = Math.round((jobs * part) / PARTS);
      const count = due - next;
      const since = performance.now();
      const enqueueSome = async () => {
        while (next < due) {
          const n = next++;
          await enqueueAsIngress(producer, [makeEntry(n, 0)], () => 1 + (n % PROJECTS));
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, enqueueSome));
      await waitUntilEmpty(opened);
      perSecond.push((count * 1_000) / (performance.now() - since));
      console.log(`${toWhole(due)} jobs: ${toWhole(perSecond.at(-1) ?? 0)}/s`);
    }
    const mib = (await readTableBytes(place.databaseUrl)) / MIB;
    await stopCleanly(worker);
    await opened.close();
    await producer.close();
    const [first = Number.NaN] = perSecond;
    const last = perSecond.at(-1) ?? Number.NaN;
    return {
      name: 'jobs',
      tables: toTable(
        ['#jobs', '#first tenth: jobs/s', '#median', '#last tenth', '#MiB of tables'],
        [[toWhole(jobs), toWhole(first), toWhole(median(perSecond)), toWhole(last), mib.toFixed(1)]],
      ),
      verdicts: [
        { measure: 'the last tenth of the jobs ÷ the first', expected: { atLeast: 0.9 }, measured: last / first },
        { measure: 'MiB of the tables of the queue and of admission', expected: { atMost: 50 }, measured: mib },
      ],
    };
  });
}

/** Size of the tables with their indexes, in bytes, once the queue is empty. */
async function readTableBytes(databaseUrl: string): Promise<number> {
  const [row] = await query<{ bytes: string }>(
    databaseUrl,
    `SELECT sum(pg_total_relation_size(c.oid)) AS bytes FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname IN ('bullmq', 'admission')`,
    [],
  );
  return Number(row?.bytes);
}

type StoredOptions = { customers: number; known: number; entries: number; seconds: number; rounds: number };

/** A database with an ingress; `stored` is the number of customers in it. */
type Side = { name: string; place: Place; target: Target; stored: number };

const WHATS = ['acks, new', 'acks, updates', 'drain, new', 'drain, updates'] as const;
type Rates = Record<(typeof WHATS)[number], number>;

/** Measures whether a full table slows things down. Both databases exist at the same time and are measured in turn. */
export async function measureStored(servers: Servers, options: StoredOptions): Promise<Report> {
  const { customers, known, rounds } = options;
  return servers.inFreshPlace((fullPlace) =>
    servers.inFreshPlace(async (emptyPlace) => {
      const sides = [await fill(emptyPlace, known), await fill(fullPlace, customers)];
      const [empty, full] = sides.map(({ name }) => name) as [string, string];
      const results = WHATS.flatMap((what) =>
        [empty, full].map((it): Result => ({ contender: it, what, perSecond: [] })),
      );
      for (let round = 1; round <= rounds; round++) {
        for (const side of sides) {
          const rates = await measureSide(side, round, options);
          for (const what of WHATS) runsOf(results, side.name, what).push(rates[what]);
          console.log(
            `round ${round}: ${side.name}: ${WHATS.map((what) => `${what}: ${toWhole(rates[what])}/s`).join('; ')}`,
          );
        }
      }
      return {
        name: 'stored',
        tables: toRateTable(results, full, 'per second'),
        verdicts: judge(results, full, empty),
      };
    }),
  );
}

async function fill(place: Place, stored: number): Promise<Side> {
  const name = `${toWhole(stored)} stored`;
  console.log(`filling: ${name}`);
  await fillCustomers(place.databaseUrl, stored);
  const target = await project.start(place);
  await warmUp(target);
  return { name, place, target, stored };
}

async function measureSide({ place, target, stored }: Side, round: number, options: StoredOptions): Promise<Rates> {
  const { seconds, entries } = options;
  const countAcks = async (customers: 'new' | { known: number }) => {
    const run = await runCounted(place, { target, seconds, customers }, project.countAccepted.new);
    return run.requests / run.seconds;
  };
  // A separate queue; otherwise the worker would also persist the entries of the acks.
  const drain = async (name: string, some: CustomerEntry[]) =>
    some.length / (await persistWithWorker({ ...place, prefix: `${place.prefix}-${name}${round}` }, some));

  const acks = { 'acks, new': await countAcks('new'), 'acks, updates': await countAcks({ known: stored }) };
  const fresh = makeEntries(entries, 0).map((entry) => ({ ...entry, customerId: `${entry.customerId}-${round}` }));
  const before = await countCustomers(place.databaseUrl);
  const drainNew = await drain('new', fresh);
  const added = (await countCustomers(place.databaseUrl)) - before;
  if (added !== entries) throw new Error(`${added} rows were added, not ${entries}`);
  const known = stored >= entries ? spreadOver(stored, fresh) : fresh;
  return { ...acks, 'drain, new': drainNew, 'drain, updates': await drain('updates', known) };
}

/** Assigns each entry to another stored customer, spread over the whole table. */
function spreadOver(stored: number, entries: CustomerEntry[]): CustomerEntry[] {
  const step = Math.floor(stored / entries.length);
  return entries.map((entry, i) => ({ ...entry, customerId: `${KNOWN_IDS}${String(1 + i * step).padStart(10, '0')}` }));
}

function judge(results: Result[], full: string, empty: string): Report['verdicts'] {
  return (['acks, new', 'drain, new'] as const).map((what) => ({
    measure: `${what}: ${full} ÷ ${empty}`,
    expected: { atLeast: 0.8 },
    measured: medianRatio(runsOf(results, full, what), runsOf(results, empty, what)),
  }));
}
