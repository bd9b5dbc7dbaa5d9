import type { CustomerEntry } from '@opm/core';
import { toWhole } from '@opm/testkit';
import { countCustomers, fillCustomers, project } from '../contenders.js';
import { makeEntries } from '../drain/drain.js';
import { persistWithWorker } from '../drain/persist.js';
import { KNOWN_IDS, type Target } from '../load/generators.js';
import { runCounted, warmUp } from '../load/run-load.js';
import { medianRatio, type Report, type Result, runsOf, toRateTable } from '../report.js';
import type { Place, Servers } from '../servers.js';

export type StoredOptions = { customers: number; known: number; entries: number; seconds: number; rounds: number };

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
