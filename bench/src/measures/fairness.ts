import { setTimeout as delay } from 'node:timers/promises';
import type { EntryQueue } from '@opm/queue';
import { type TestApp, toTable, toWhole } from '@opm/testkit';
import pg from 'pg';
import { createProjects, startProject, startProjectWorker } from '../contenders.js';
import type { Target } from '../load/generators.js';
import { CHUNK, createProducer, enqueueAsIngress } from '../queues.js';
import type { Report, Verdict } from '../report.js';
import type { Place, Servers } from '../servers.js';
import { makeEntry, stopCleanly } from './drain.js';

type FairnessOptions = { backlog: number; samples: number };

/** Times from an entry's answer until its row can be read, in ms, sorted. */
type Delays = number[];

const WARM_UP_SAMPLES = 100;
/** Time for a new worker to reach full speed. */
const WARM_UP_MS = 2_000;

/** Numbers of other projects with a backlog; their entries add up to the same number. */
const BUSY = [1, 1_000];

/**
 * Measures how much a project with few entries is delayed by one project with very many, or by a thousand busy ones.
 */
export async function measureFairness(servers: Servers, options: FairnessOptions): Promise<Report> {
  const sections: { table: string; verdict: Verdict }[] = [];
  for (const busy of BUSY) sections.push(await servers.inFreshPlace((place) => measureBeside(place, busy, options)));
  return {
    name: 'fairness',
    tables: sections.map(({ table }) => table).join('\n\n'),
    verdicts: sections.map(({ verdict }) => verdict),
  };
}

async function measureBeside(place: Place, busy: number, { backlog, samples }: FairnessOptions) {
  const quiet = await startProject(place);
  await createProjects(place.databaseUrl, busy); // The quiet project has id 1; these follow.
  const producer = await createProducer(place);
  const client = new pg.Client({ connectionString: place.databaseUrl });
  await client.connect();
  place.onEnd(async () => {
    await client.end();
    await producer.close();
  });
  const takeSample = createSampler(quiet, client);

  let worker = await startProjectWorker(place);
  for (let i = 0; i < WARM_UP_SAMPLES; i++) await takeSample();
  const alone = await takeSamples(takeSample, samples);
  await stopCleanly(worker);

  const others = busy === 1 ? 'the other project' : `${toWhole(busy)} other projects`;
  console.log(`filling: ${toWhole(backlog)} entries of ${others}`);
  await fill(producer, busy, backlog);
  worker = await startProjectWorker(place);
  await delay(WARM_UP_MS);
  const fullStatementMs = await readStatementMs(worker);
  for (let i = 0; i < WARM_UP_SAMPLES; i++) await takeSample();
  const beside = await takeSamples(takeSample, samples);
  const left = (await producer.load()).entries;
  if (left === 0) throw new Error('the backlog of the other projects ran out; use a larger --backlog');

  const limitMs = 2 * percentile(alone, 0.99) + fullStatementMs;
  return {
    table: toTable(
      [others, '#samples', '#p50 ms', '#p99 ms'],
      [
        ['nothing to do', ...toCells(alone)],
        [`${toWhole(backlog)} entries waiting, ${toWhole(left)} in the end`, ...toCells(beside)],
      ],
    ),
    verdict: {
      measure: `p99 from ack to row beside ${others} ÷ (twice that without + a full statement of ${fullStatementMs.toFixed(0)} ms)`,
      expected: { atMost: 1 },
      measured: percentile(beside, 0.99) / limitMs,
    },
  };
}

async function fill(producer: EntryQueue, busy: number, count: number): Promise<void> {
  let next = 0;
  const fillChunks = async () => {
    while (next < count) {
      const first = next;
      const chunk = Array.from({ length: Math.min(CHUNK, count - next) }, () => makeEntry(next++, 0));
      await enqueueAsIngress(producer, chunk, (i) => 2 + ((first + i) % busy));
    }
  };
  await Promise.all(Array.from({ length: 20 }, fillChunks));
}

/** Sends an entry and polls for its row every millisecond. */
function createSampler({ url, apiKey }: Target, client: pg.Client): () => Promise<number> {
  let next = 0;
  const isStored = async (customerId: string) => {
    const text = 'SELECT FROM customers WHERE project_id = 1 AND customer_id = $1';
    const { rowCount } = await client.query({ name: 'is-stored', text, values: [customerId] });
    return rowCount === 1;
  };
  return async () => {
    const customerId = `quiet-${next++}`;
    const response = await fetch(`${url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body: JSON.stringify({ customerId, customerEmail: 'jane@example.com' }),
    });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`the entry was answered ${response.status}`);
    const start = performance.now();
    while (!(await isStored(customerId))) await delay(1);
    return performance.now() - start;
  };
}

async function takeSamples(takeSample: () => Promise<number>, count: number): Promise<Delays> {
  const delays: Delays = [];
  while (delays.length < count) delays.push(await takeSample());
  return delays.sort((a, b) => a - b);
}

const percentile = (sorted: Delays, part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;

const toCells = (delays: Delays) => [
  toWhole(delays.length),
  percentile(delays, 0.5).toFixed(1),
  percentile(delays, 0.99).toFixed(1),
];

/** The mean duration of a statement, in ms, over one second in which only the other projects are served. */
async function readStatementMs({ readMetric }: Pick<TestApp, 'readMetric'>): Promise<number> {
  const read = async () => ({
    count: await readMetric('opm_statement_seconds_count'),
    seconds: await readMetric('opm_statement_seconds_sum'),
  });
  const before = await read();
  await delay(1_000);
  const after = await read();
  if (after.count === before.count) throw new Error('the worker persists no entries of the other projects');
  return ((after.seconds - before.seconds) / (after.count - before.count)) * 1_000;
}
