import { median, query, toTable, toWhole } from '@opm/testkit';
import { createProjects, startProjectWorker } from '../contenders.js';
import { makeEntry } from '../drain/drain.js';
import { stopCleanly } from '../drain/persist.js';
import { createProducer, enqueueAsIngress, openProjectQueue, waitUntilEmpty } from '../queues.js';
import type { Report } from '../report.js';
import type { Servers } from '../servers.js';

export type JobsOptions = { jobs: number };

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
