import { fileURLToPath } from 'node:url';
import { createStore } from '@opm/store';
import { startApp, startProcess, type TestApp, type TestProcess } from '@opm/testkit';
import { countCustomers } from './customers.js';
import { countWaiting, type OpenQueue, openProjectQueue, openTextbookQueue } from './queues.js';
import type { Place } from './servers.js';

/** Where to send entries. */
export type Target = {
  url: string;
  apiKey: string;
  /** The keys that requests have, one after the other, again and again; all have `apiKey` unless given. */
  turns?: string[];
};

/** A program that answers POST /entry. */
export type Contender = {
  name: string;
  start(place: Place): Promise<Target>;
  /** Entries that it has accepted, where something can be counted. */
  countAccepted: { new?: Count; updates?: Count };
};

export type Count = (place: Place) => Promise<number>;

const PEER_KEY = 'opm_peer';

export const project: Contender = {
  name: 'this project',
  start: (place) => startProject(place),
  countAccepted: countQueued(openProjectQueue),
};

export const bare: Contender = { name: 'bare', start: startPeer('bare.js'), countAccepted: {} };

export const fastify: Contender = { name: 'fastify', start: startPeer('fastify.js'), countAccepted: {} };

export const textbook: Contender = {
  name: 'textbook',
  start: startPeer('textbook.js'),
  countAccepted: countQueued(openTextbookQueue),
};

/** Its updates overwrite one another, and leave nothing to count. */
export const synchronous: Contender = {
  name: 'synchronous',
  start: startPeer('synchronous.js'),
  countAccepted: { new: ({ databaseUrl }) => countCustomers(databaseUrl) },
};

type Ingress = Target & Pick<TestApp, 'pid' | 'output' | 'readMetric'>;

/** The ingress, with the key of a project that is made for it: the first of its database. */
export async function startProject(place: Place, env?: NodeJS.ProcessEnv): Promise<Ingress> {
  const [ingress] = await startIngresses(place, 1, env);
  return ingress;
}

/** Several of them, for the same project. */
export async function startIngresses(
  place: Place,
  count: number,
  env: NodeJS.ProcessEnv = {},
): Promise<[Ingress, ...Ingress[]]> {
  const store = createStore({ databaseUrl: place.databaseUrl, applicationName: 'bench' });
  const { apiKey } = await store.projects.create('bench').finally(store.close);
  const start = async (): Promise<Ingress> => {
    const { stop, ...ingress } = await startApp('ingress', { ...environmentOf(place), ...env });
    endWith(place, stop);
    return { ...ingress, apiKey };
  };
  return Promise.all([start(), ...Array.from({ length: count - 1 }, start)]);
}

export async function startProjectWorker(place: Place): Promise<TestApp> {
  const worker = await startApp('worker', environmentOf(place));
  endWith(place, worker.stop);
  return worker;
}

export async function startTextbookWorker(place: Place): Promise<TestProcess> {
  const worker = await startProcess({
    file: locatePeer('textbook-worker.js'),
    env: environmentOf(place),
    readyOutput: /ready/,
  });
  endWith(place, worker.stop);
  return worker;
}

function startPeer(file: string): Contender['start'] {
  return async (place) => {
    const env = { ...environmentOf(place), API_KEY: PEER_KEY };
    const peer = await startProcess({ file: locatePeer(file), env, readyOutput: /listening on \d+/ });
    endWith(place, peer.stop);
    const [, port] = /listening on (\d+)/.exec(peer.output()) ?? [];
    return { url: `http://127.0.0.1:${port}`, apiKey: PEER_KEY };
  };
}

/** At once: nothing of the place is kept, so nothing needs to end well. */
function endWith(place: Place, stop: TestProcess['stop']): void {
  place.onEnd(() => stop('SIGKILL'));
}

const locatePeer = (file: string) => fileURLToPath(new URL(`../peers/${file}`, import.meta.url));

/** As in production, but with room for any backlog: what is measured is accepting, not refusing. */
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
