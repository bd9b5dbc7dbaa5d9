import { setTimeout as delay } from 'node:timers/promises';
import type { EntryQueue } from '@opm/queue';
import { median, toTable, toWhole } from '@opm/testkit';
import pg from 'pg';
import { createProjects, startProjectWorker } from '../contenders.js';
import { CHUNK, createProducer, openProjectQueue, waitUntilEmpty } from '../queues.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { makeEntry, stopCleanly } from './drain.js';

type TroubleOptions = { entries: number; rounds: number };

type AdmitRequest = Parameters<EntryQueue['admit']>[1][number] & { fields?: object };

type Trouble = {
  name: string;
  /** Creates the n-th entry of the partner in trouble. The other entries belong to other partners. */
  toEntry?: (n: number) => AdmitRequest;
  /** The entries get their own chunks, as the ingress does with erasures. */
  isApart?: true;
  isPersisted?: true;
  hold?: (client: pg.Client) => Promise<void>;
};

const PARTNERS = 1_000;
const IN_TROUBLE = 1;
/** One of so many entries belongs to the partner in trouble. */
const EVERY = 100;
const POISON = 'poison@example.com';
const POLL_MS = 50;

const REFUSE = `
  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.email = '${POISON}' THEN RAISE 'refused' USING ERRCODE = 'data_exception'; END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION refuse()`;

const hold = async (client: pg.Client) => {
  await client.query(
    `INSERT INTO customers (project_id, customer_id, email, created_at, updated_at)
     SELECT ${IN_TROUBLE}, 'held ' || n, 'held@example.com', now(), now() FROM generate_series(0, 4) AS n`,
  );
  await client.query(`BEGIN; SELECT FROM customers WHERE project_id = ${IN_TROUBLE} FOR UPDATE`);
};

const TROUBLES: Trouble[] = [
  { name: 'none' },
  { name: 'entries that PostgreSQL refuses', toEntry: (n) => ({ ...toEntry(n), fields: { email: POISON } }) },
  {
    name: 'entries about five rows that a session holds',
    toEntry: (n) => ({ ...toEntry(n), customerId: `held ${n % 5}` }),
    hold,
  },
  {
    name: 'erasures',
    toEntry: (n) => ({ projectId: IN_TROUBLE, customerId: `erased ${n}`, erase: true }),
    isApart: true,
    isPersisted: true,
  },
];

const toEntry = (n: number): AdmitRequest => ({ ...makeEntry(n, 1), projectId: IN_TROUBLE });

/**
 * Measures how trouble in 1 % of all entries, all of one partner, affects the rate at which a worker persists the
 * others.
 */
export async function measureTrouble(servers: Servers, { entries, rounds }: TroubleOptions): Promise<Report> {
  const perSecond = new Map<Trouble, number[]>(TROUBLES.map((trouble) => [trouble, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const trouble of TROUBLES) {
      const speed = await servers.inFreshPlace((place) => timeOthers(place, trouble, entries));
      perSecond.get(trouble)?.push(speed);
      console.log(`round ${round}: ${trouble.name}: ${toWhole(speed)}/s`);
    }
  }
  const [[, without = []] = []] = perSecond;
  const ratios = [...perSecond].map(([{ name }, speeds]) => ({ name, speeds, ratio: medianRatio(speeds, without) }));
  return {
    name: 'trouble',
    tables: withRounds(
      toTable(
        ['1 % of the entries', '#others persisted/s', '#÷ none'],
        ratios.map(({ name, speeds, ratio }) => [name, toWhole(median(speeds)), ratio.toFixed(2)]),
      ),
      rounds,
    ),
    verdicts: ratios.slice(1).map(({ name, ratio }) => ({
      measure: `others beside ${name} ÷ without`,
      expected: { atLeast: 0.8 },
      measured: ratio,
    })),
  };
}

/** @returns entries of the other partners per second, from the first job until all of them are rows */
async function timeOthers(place: Place, trouble: Trouble, entries: number): Promise<number> {
  const client = new pg.Client({ connectionString: place.databaseUrl });
  await client.connect();
  await client.query(REFUSE);
  await createProjects(place.databaseUrl, PARTNERS);
  await trouble.hold?.(client);
  const opened = await openProjectQueue(place);
  await opened.queue.pause();
  const others = await fill(place, trouble, entries);
  const worker = await startProjectWorker(place);
  const due = trouble.isPersisted || !trouble.toEntry ? entries : others;
  const since = performance.now();
  await opened.queue.resume();
  while ((await worker.readMetric('opm_entries_persisted_total')) < due) {
    await delay(POLL_MS);
  }
  const seconds = (performance.now() - since) / 1_000;
  if (trouble.hold) await client.query('ROLLBACK');
  await client.end();
  await waitUntilEmpty(opened);
  await stopCleanly(worker);
  await opened.close();
  return others / seconds;
}

/**
 * Enqueues the entries.
 * @returns how many belong to other partners
 */
async function fill(place: Place, { toEntry: toTroubled, isApart }: Trouble, entries: number): Promise<number> {
  const producer = await createProducer(place);
  let others = 0;
  for (let first = 0; first < entries; first += CHUNK) {
    const isTroubled = (n: number) => toTroubled && (isApart ? (first / CHUNK) % EVERY === 0 : n % EVERY === 0);
    const requests = Array.from({ length: CHUNK }, (_, i): AdmitRequest => {
      const n = first + i;
      if (toTroubled && isTroubled(n)) return toTroubled(n);
      others++;
      return { ...makeEntry(n, 1), projectId: IN_TROUBLE + 1 + (n % (PARTNERS - 1)) };
    });
    const { admitted } = await producer.admit(0, requests);
    await producer.enqueue(0, {
      entries: requests.map((entry, i) => ({ ...entry, version: admitted[i]?.version ?? 0 })),
    });
  }
  await producer.close();
  return others;
}
