import type { CustomerEntry } from '@opm/core';
import { query, type TestProcess } from '@opm/testkit';
import pg from 'pg';
import { startProjectWorker, startTextbookWorker } from '../contenders.js';
import {
  CHUNK,
  createProducer,
  enqueueAsIngress,
  type OpenQueue,
  openProjectQueue,
  openTextbookQueue,
  waitUntilEmpty,
} from '../queues.js';
import { type Report, type Result, runsOf, toRateTable } from '../report.js';
import type { Place, Servers } from '../servers.js';

type DrainOptions = { entries: number; textbookEntries: number; rounds: number };

/** `persist` persists the entries and returns the seconds, without starting the worker and filling the queue. */
type Drainer = { name: string; persist(place: Place, entries: CustomerEntry[]): Promise<number>; count: number };

const PASSES = ['new', 'updates'];

/** Measures how long a backlog takes to become rows: new customers, then the same ones again. */
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

/** Fails the measurement if rows are wrong or missing. */
async function assertRows(databaseUrl: string, count: number, pass: number): Promise<void> {
  const text = 'SELECT count(*)::int AS count FROM customers WHERE email LIKE $1';
  const [row] = await query<{ count: number }>(databaseUrl, text, [`%.${pass}@example.com`]);
  if (row?.count !== count) throw new Error(`${row?.count} rows are right, not ${count}`);
}

const T0 = Date.now() * 1_000;

/**
 * Entries of distinct customers with all fields. Each pass gives the same customers newer versions and other values.
 */
export function makeEntries(count: number, pass: number): CustomerEntry[] {
  return Array.from({ length: count }, (_, i) => makeEntry(i, T0 + pass * count + i, pass));
}

export function makeEntry(i: number, version: number, pass = 0): CustomerEntry {
  return {
    customerId: `customer-${i}`,
    version,
    fields: {
      email: `customer.${i}.${pass}@example.com`,
      phone: `+49 30 ${pass} ${i}`,
      firstName: `First ${i}`,
      lastName: `Last ${pass} ${i}`,
      ip: `10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`,
    },
  };
}

const ROWS = 1_000;
const IN_FLIGHT = 2;

/**
 * The ceiling of PostgreSQL for one process: writes the same rows from memory, without queue or merging.
 * @returns seconds
 */
async function writeAtCeiling(databaseUrl: string, entries: CustomerEntry[]): Promise<number> {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: IN_FLIGHT });
  await Promise.all(Array.from({ length: IN_FLIGHT }, () => pool.query('SELECT 1')));
  const batches = slice(entries, ROWS);
  const start = performance.now();
  await Promise.all(
    Array.from({ length: IN_FLIGHT }, async () => {
      for (const batch of batches) await write(pool, batch);
    }),
  );
  const seconds = (performance.now() - start) / 1_000;
  await pool.end();
  return seconds;
}

async function write(pool: pg.Pool, batch: CustomerEntry[]): Promise<void> {
  await pool.query({
    name: 'write',
    text: `
      INSERT INTO customers (
        project_id, customer_id, email, phone, first_name, last_name, ip,
        email_version, phone_version, first_name_version, last_name_version, ip_version, created_at, updated_at
      )
      SELECT 1, customer_id, email, phone, first_name, last_name, ip, version, version, version, version, version, now(), now()
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
        AS given (customer_id, email, phone, first_name, last_name, ip, version)
      ON CONFLICT (project_id, customer_id) DO UPDATE SET
        email = excluded.email, phone = excluded.phone, first_name = excluded.first_name,
        last_name = excluded.last_name, ip = excluded.ip,
        email_version = excluded.email_version, phone_version = excluded.phone_version,
        first_name_version = excluded.first_name_version, last_name_version = excluded.last_name_version,
        ip_version = excluded.ip_version, updated_at = excluded.updated_at`,
    values: [
      batch.map(({ customerId }) => customerId),
      batch.map(({ fields }) => fields?.email),
      batch.map(({ fields }) => fields?.phone),
      batch.map(({ fields }) => fields?.firstName),
      batch.map(({ fields }) => fields?.lastName),
      batch.map(({ fields }) => fields?.ip),
      batch.map(({ version }) => version),
    ],
  });
}

/**
 * Persists the entries with one worker of this project.
 * @returns seconds, without starting the worker and filling the queue
 */
export const persistWithWorker = (place: Place, entries: CustomerEntry[]): Promise<number> =>
  persistWithWorkers(place, entries, 1);

/** The same with several workers. */
export async function persistWithWorkers(place: Place, entries: CustomerEntry[], count: number): Promise<number> {
  const opened = await fillQueue(place, entries);
  const workers = await Promise.all(Array.from({ length: count }, () => startProjectWorker(place)));
  const seconds = await timeDrain(opened);
  await Promise.all(workers.map(stopCleanly));
  await opened.close();
  return seconds;
}

/** Enqueues the entries into a paused queue. */
export async function fillQueue(place: Place, entries: CustomerEntry[], chunkSize = CHUNK): Promise<OpenQueue> {
  const producer = await createProducer(place);
  const opened = await openProjectQueue(place);
  await opened.queue.pause();
  for (const some of slice([...slice(entries, chunkSize)], 50)) {
    await Promise.all(some.map((chunk) => enqueueAsIngress(producer, chunk)));
  }
  await producer.close();
  return opened;
}

/**
 * Persists the entries with the textbook worker.
 * @returns seconds, without starting the worker and filling the queue
 */
export async function persistWithTextbook(place: Place, entries: CustomerEntry[]): Promise<number> {
  const opened = await openTextbookQueue(place);
  await opened.queue.pause();
  for (const some of slice(entries, 1_000)) await opened.queue.addBulk(some.map((data) => ({ name: 'entry', data })));
  const worker = await startTextbookWorker(place);
  const seconds = await timeDrain(opened);
  await stopCleanly(worker);
  await opened.close();
  return seconds;
}

export function* slice<T>(items: T[], size: number): Generator<T[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size);
}

export async function stopCleanly(worker: TestProcess): Promise<void> {
  const { code } = await worker.stop();
  if (code !== 0) throw new Error(`the worker exited with code ${code}:\n${worker.output()}`);
}

/**
 * Resumes the queue and waits until it is empty.
 * @returns seconds
 */
export async function timeDrain(opened: OpenQueue): Promise<number> {
  const start = performance.now();
  await opened.queue.resume();
  await waitUntilEmpty(opened);
  return (performance.now() - start) / 1_000;
}
