import { fileURLToPath } from 'node:url';
import type { CustomerEntry } from '@opm/core';
import { createEntryQueue, type EntryQueue, openDashboardQueues } from '@opm/queue';
import { startApp, startProcess, type TestProcess, waitFor } from '@opm/testkit';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { printReport, type Result } from '../report.js';
import { type Place, startServers } from '../servers.js';
import { writeAtCeiling } from './ceiling.js';
import { makeEntries, slice } from './entries.js';

export type DrainOptions = { entries: number; textbookEntries: number; rounds: number };

/** Persists the entries and says how many seconds that took, without what it takes to start and to fill the queue. */
type Contender = (place: Place, entries: CustomerEntry[]) => Promise<number>;

/** As many as the ingress puts into one job at most. */
const CHUNK = 200;
const TEXTBOOK_WORKER = fileURLToPath(new URL('textbook-worker.js', import.meta.url));

export async function drain({ entries, textbookEntries, rounds }: DrainOptions): Promise<void> {
  const contenders: { name: string; persist: Contender; count: number }[] = [
    { name: 'this project', persist: persistWithWorker, count: entries },
    {
      name: 'plain pg from memory',
      persist: ({ databaseUrl }, all) => writeAtCeiling(databaseUrl, all),
      count: entries,
    },
    { name: 'textbook worker', persist: persistWithTextbook, count: textbookEntries },
  ];
  const results = ['new', 'updates'].flatMap((what) =>
    contenders.map(({ name }): Result => ({ contender: name, what, perSecond: [] })),
  );
  const servers = await startServers();
  try {
    for (let round = 1; round <= rounds; round++) {
      for (const { name, persist, count } of contenders) {
        await servers.inFreshPlace(async (place) => {
          for (const [pass, what] of ['new', 'updates'].entries()) {
            const seconds = await persist(place, makeEntries(count, pass));
            await assertRows(place.databaseUrl, count, pass);
            results.find((it) => it.contender === name && it.what === what)?.perSecond.push(count / seconds);
            console.log(`round ${round}: ${name}, ${what}: ${count} entries in ${seconds.toFixed(2)} s`);
          }
        });
      }
    }
  } finally {
    await servers.stop();
  }
  printReport(results, 'this project', 'entries/s');
}

async function persistWithWorker(place: Place, entries: CustomerEntry[]): Promise<number> {
  const options = { ...place, shards: 1, signal: new AbortController().signal, onError: console.error };
  const queue = await createEntryQueue(options);
  const { queues, close } = await openDashboardQueues(options);
  const [control] = queues;
  if (!control) throw new Error('there is no queue');
  await control.pause();
  for (const some of slice([...slice(entries, CHUNK)], 50)) {
    await Promise.all(some.map((chunk) => enqueueAsIngress(queue, chunk)));
  }
  const worker = await startApp('worker', environmentOf(place));
  const seconds = await timeDrain(control);
  await end(worker);
  await queue.close();
  await close();
  return seconds;
}

/** Versions and claims come from admission, so that there is something to settle. */
async function enqueueAsIngress(queue: EntryQueue, chunk: CustomerEntry[]): Promise<void> {
  const { admitted, backlog } = await queue.admit(0, 1, chunk);
  const entries = chunk.map((entry, i) => ({ ...entry, version: admitted[i]?.version ?? 0 }));
  await queue.enqueue(0, { v: 1, projectId: 1, entries }, backlog);
}

async function persistWithTextbook(place: Place, entries: CustomerEntry[]): Promise<number> {
  const connection = new Redis(place.redisUrl, { maxRetriesPerRequest: null });
  const queue = new Queue('textbook', { connection, prefix: place.prefix });
  await queue.pause();
  for (const some of slice(entries, 1_000)) await queue.addBulk(some.map((data) => ({ name: 'entry', data })));
  const worker = await startProcess({ file: TEXTBOOK_WORKER, env: environmentOf(place), readyOutput: /ready/ });
  const seconds = await timeDrain(queue);
  await end(worker);
  await queue.close();
  connection.disconnect();
  return seconds;
}

const environmentOf = ({ databaseUrl, redisUrl, prefix }: Place): NodeJS.ProcessEnv => ({
  DATABASE_URL: databaseUrl,
  REDIS_URL: redisUrl,
  REDIS_PREFIX: prefix,
});

/** From the moment that the queue is opened until nothing is left in it. */
async function timeDrain(queue: Queue): Promise<number> {
  const start = performance.now();
  await queue.resume();
  const isEmpty = async () =>
    Object.values(await queue.getJobCounts('waiting', 'active', 'delayed', 'prioritized')).every(
      (count) => count === 0,
    );
  await waitFor(isEmpty, { description: 'an empty queue', timeoutMs: 600_000 });
  return (performance.now() - start) / 1_000;
}

async function end(worker: TestProcess): Promise<void> {
  const { code } = await worker.stop();
  if (code !== 0) throw new Error(`the worker ended with ${code}:\n${worker.output()}`);
}

/** A fast answer that is wrong counts for nothing. */
async function assertRows(databaseUrl: string, count: number, pass: number): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const { rows } = await client.query('SELECT count(*)::int AS count FROM customers WHERE email LIKE $1', [
    `%.${pass}@example.com`,
  ]);
  await client.end();
  if (rows[0].count !== count) throw new Error(`${rows[0].count} rows are right, not ${count}`);
}
