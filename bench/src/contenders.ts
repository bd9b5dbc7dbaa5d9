import { fileURLToPath } from 'node:url';
import { createStore } from '@opm/store';
import { query, startApp, startProcess, type TestApp, type TestProcess } from '@opm/testkit';
import { KNOWN_IDS, type Target } from './load/generators.js';
import { countWaiting, type OpenQueue, openProjectQueue, openTextbookQueue } from './queues.js';
import type { Place } from './servers.js';

/** A program that answers POST /entry. */
export type Contender = {
  name: string;
  start(place: Place): Promise<Target>;
  /** Counts the accepted entries; missing if the contender leaves nothing to count. */
  countAccepted: { new?: Count; updates?: Count };
};

export type Count = (place: Place) => Promise<number>;

const PEER_KEY = 'opm_peer';

export const project: Contender = {
  name: 'this project',
  start: (place) => startProject(place),
  countAccepted: countQueued(openProjectQueue),
};

export const bare: Contender = { name: 'bare', start: startPeer('ceiling.js', 'bare'), countAccepted: {} };

export const fastify: Contender = { name: 'fastify', start: startPeer('ceiling.js', 'fastify'), countAccepted: {} };

export const textbook: Contender = {
  name: 'textbook',
  start: startPeer('textbook.js', 'api'),
  countAccepted: countQueued(openTextbookQueue),
};

/** Updates overwrite one another and leave nothing to count. */
export const synchronous: Contender = {
  name: 'synchronous',
  start: startPeer('synchronous.js'),
  countAccepted: { new: ({ databaseUrl }) => countCustomers(databaseUrl) },
};

type Ingress = Target & Pick<TestApp, 'pid' | 'output' | 'readMetric'>;

/** Starts an ingress and creates a project for it, the first one of its database. */
export async function startProject(place: Place, env?: NodeJS.ProcessEnv): Promise<Ingress> {
  const [ingress] = await startIngresses(place, 1, env);
  return ingress;
}

/** Starts several ingresses for the same new project. */
export async function startIngresses(
  place: Place,
  count: number,
  env: NodeJS.ProcessEnv = {},
): Promise<[Ingress, ...Ingress[]]> {
  const store = createStore({ databaseUrl: place.databaseUrl, applicationName: 'bench' });
  const { apiKey } = await store.projects.create('bench').finally(store.close);
  const start = async (): Promise<Ingress> => {
    const { stop, ...ingress } = await startApp('ingress', { ...environmentOf(place), ...env });
    killOnEnd(place, stop);
    return { ...ingress, apiKey };
  };
  return Promise.all([start(), ...Array.from({ length: count - 1 }, start)]);
}

export async function startProjectWorker(place: Place): Promise<TestApp> {
  const worker = await startApp('worker', environmentOf(place));
  killOnEnd(place, worker.stop);
  return worker;
}

export async function startTextbookWorker(place: Place): Promise<TestProcess> {
  const worker = await startProcess({
    file: locatePeer('textbook.js'),
    args: ['worker'],
    env: environmentOf(place),
    readyOutput: /ready/,
  });
  killOnEnd(place, worker.stop);
  return worker;
}

function startPeer(file: string, ...args: string[]): Contender['start'] {
  return async (place) => {
    const env = { ...environmentOf(place), API_KEY: PEER_KEY };
    const peer = await startProcess({ file: locatePeer(file), args, env, readyOutput: /listening on \d+/ });
    killOnEnd(place, peer.stop);
    const [, port] = /listening on (\d+)/.exec(peer.output()) ?? [];
    return { url: `http://127.0.0.1:${port}`, apiKey: PEER_KEY };
  };
}

/** Kills the process: nothing in the place is kept, so it need not shut down. */
function killOnEnd(place: Place, stop: TestProcess['stop']): void {
  place.onEnd(() => stop('SIGKILL'));
}

const locatePeer = (file: string) => fileURLToPath(new URL(`../peers/${file}`, import.meta.url));

/** As in production, but with room for any backlog: the benchmark measures accepting, not refusing. */
const environmentOf = (place: Place): NodeJS.ProcessEnv => ({
  NODE_ENV: 'production',
  LOG_LEVEL: 'info',
  DATABASE_URL: place.databaseUrl,
  REDIS_URL: place.queue === 'postgres' ? undefined : place.redisUrl,
  REDIS_PREFIX: place.prefix,
  QUEUE_SHARDS: String(place.shards ?? 1),
  REDIS_MIN_REPLICAS: String(place.minReplicas ?? 0),
  CHUNKS_IN_FLIGHT: place.chunksInFlight?.toString(),
  BACKLOG_MAX_ENTRIES: '100000000',
});

function countQueued(open: (place: Place) => Promise<OpenQueue>): Contender['countAccepted'] {
  const count: Count = async (place) => {
    const queue = await open(place);
    return countWaiting(queue).finally(queue.close);
  };
  return { new: count, updates: count };
}

/** Inserts customers as their entries leave them once persisted and settled: rows of project 1, no claims. */
export async function fillCustomers(databaseUrl: string, count: number): Promise<void> {
  await query(
    databaseUrl,
    `INSERT INTO customers (
       project_id, customer_id, email, phone, first_name, last_name, ip,
       email_version, phone_version, first_name_version, last_name_version, ip_version, created_at, updated_at
     )
     SELECT
       1, '${KNOWN_IDS}' || lpad(n::text, 10, '0'), 'stored.' || n || '@example.com', '+41 44 ' || n, 'First', 'Stored ' || n, '203.0.113.7',
       n, n, n, n, n, now(), now()
     FROM generate_series(1, ${count}) AS n`,
  );
  await query(databaseUrl, 'VACUUM ANALYZE customers');
}

export async function countCustomers(databaseUrl: string): Promise<number> {
  const [row] = await query<{ count: number }>(databaseUrl, 'SELECT count(*)::int AS count FROM customers');
  return row?.count ?? 0;
}

/**
 * Creates projects without keys, for entries that bypass the ingress. The first projects of a database have the ids 1,
 * 2, …
 */
export async function createProjects(databaseUrl: string, count: number): Promise<void> {
  const text = "INSERT INTO projects (name) SELECT 'partner ' || n FROM generate_series(1, $1::int) AS n";
  await query(databaseUrl, text, [count]);
}
