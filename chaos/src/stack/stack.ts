import { execFile } from 'node:child_process';
import { appendFile, chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';
import type { QueueConfig } from '@opm/queue';
import { createStore } from '@opm/store';
import { startProxy, type TcpProxy, withRedis } from '@opm/testkit';
import {
  type ClusterVictim,
  type PostgresVictim,
  type RedisVictim,
  removeMemoryLimit,
  startClusterVictim,
  startPostgresVictim,
  startRedisVictim,
} from './store-victims.js';
import { type AppVictim, createAppVictim, createHostShims, type HostShim, type Victim } from './victim.js';

/** Where the queue is stored. */
export type QueueStore = 'redis' | 'cluster' | 'postgres';

/** A connection between two processes, through a proxy. */
type Link = { name: string; proxy: TcpProxy };

export type Project = { projectId: number; apiKey: string };

const PARTNERS = 50;

export type Stack = {
  ingresses: AppVictim[];
  workers: AppVictim[];
  postgres: PostgresVictim;
  redis: RedisVictim | undefined;
  cluster: ClusterVictim | undefined;
  /** PostgreSQL and, if the queue is there, Redis or the cluster. */
  stores: Victim[];
  links: Link[];
  /** The links between partners and ingresses. */
  partnerLinks: Link[];
  /** The shims of all hosts. */
  shims: HostShim[];
  /** URLs of the ingresses, through the partners' proxies. */
  urls: string[];
  /** Connects directly, without a proxy, to inspect the queue. */
  queue: QueueConfig;
  /** The projects that clients send to. */
  partners: Project[];
  /** The project of the probes. */
  probing: Project;
  /** Repairs what faults left. */
  repair(): Promise<void>;
  /** Stops everything; calls `onBadExit` for each failure. */
  stop(): Promise<void>;
};

type StackOptions = {
  /** Created if missing; holds the data and the logs. */
  directory: string;
  queue: QueueStore;
  /** Settings of the apps that differ from those of this file. */
  appEnv: NodeJS.ProcessEnv;
  onBadExit: (what: string) => void;
};

const COUNT = { ingress: 2, worker: 2 };
const SHARDS: Record<QueueStore, number> = { redis: 2, cluster: 6, postgres: 2 };
const PREFIX = 'opm';

const APP_ENV = {
  REDIS_PREFIX: PREFIX,
  // Short, so that another worker soon takes a killed worker's jobs, and a frozen worker outlives its locks.
  JOB_LOCK_MS: '3000',
  // Longer than every timeout of the apps: a process that uses all of it waits for something that never comes.
  SHUTDOWN_TIMEOUT_MS: '40000',
};

/** Starts two ingresses and two workers on their own durable stores. Their loopback ports stay the same. */
export async function startStack({ directory, queue, appEnv, onBadExit }: StackOptions): Promise<Stack> {
  const releases: (() => Promise<unknown>)[] = [];
  const stop = async () => {
    for (const release of releases.splice(0).reverse()) {
      await release().catch((error: Error) => onBadExit(`the stack was not stopped properly: ${error.message}`));
    }
  };
  try {
    for (const name of ['redis', 'logs']) await mkdir(join(directory, name), { recursive: true });
    await chmod(directory, 0o711); // If we run as root, the account of PostgreSQL must be able to enter the directory.
    const createHostShim = await createHostShims(directory);
    const shims: HostShim[] = [];
    const createShim = async (name: string) => {
      const shim = await createHostShim(name);
      shims.push(shim);
      return shim;
    };
    const postgres = await startPostgresVictim(join(directory, 'postgres'), await createShim('postgres'));
    releases.push(() => postgres.end('SIGTERM'));
    const redisDirectory = join(directory, 'redis');
    const redis = queue === 'redis' ? await startRedisVictim(redisDirectory, await createShim('redis')) : undefined;
    if (redis) releases.push(() => redis.end('SIGTERM'));
    const cluster = queue === 'cluster' ? await startClusterVictim(redisDirectory, createShim) : undefined;
    if (cluster) releases.push(() => cluster.end('SIGTERM'));
    const { partners, probing } = await prepareDatabase(postgres.url);

    const links: Link[] = [];
    const link = async (name: string, url: string) => {
      const proxy = await startProxy(url);
      releases.push(proxy.close);
      links.push({ name, proxy });
      return proxy.url;
    };
    const onOutput = (name: string, output: string) =>
      void appendFile(join(directory, 'logs', `${name.replace(' ', '-')}.log`), output);

    const startApps = async (kind: 'ingress' | 'worker') => {
      const apps: { app: AppVictim; port: number }[] = [];
      for (let n = 1; n <= COUNT[kind]; n++) {
        const name = `${kind} ${n}`;
        const port = await findFreePort();
        const env = {
          ...APP_ENV,
          ...appEnv,
          QUEUE_SHARDS: String(SHARDS[queue]),
          REDIS_MIN_REPLICAS: cluster ? '1' : '0',
          PORT: String(port),
          INTERNAL_PORT: String(await findFreePort()),
          DATABASE_URL: await link(`${name} – PostgreSQL`, postgres.url),
          // The nodes of a cluster tell clients their addresses, so a proxy cannot stand in between.
          REDIS_URL: redis ? await link(`${name} – Redis`, redis.url) : (cluster?.url ?? ''),
        };
        const app = createAppVictim({ name, kind, env, shim: await createShim(name), onBadExit, onOutput });
        await app.start();
        releases.push(() => app.end('SIGTERM'));
        apps.push({ app, port });
      }
      return apps;
    };
    const workers = await startApps('worker');
    const ingresses = await startApps('ingress');
    const urls: string[] = [];
    for (const { app, port } of ingresses) urls.push(await link(`partners – ${app.name}`, `http://127.0.0.1:${port}`));
    const partnerLinks = links.slice(-urls.length);

    const stores = [postgres, redis, cluster].filter((store) => store !== undefined);
    return {
      ingresses: ingresses.map(({ app }) => app),
      workers: workers.map(({ app }) => app),
      postgres,
      redis,
      cluster,
      stores,
      links,
      partnerLinks,
      shims,
      urls: urls.map((url) => new URL(url).origin),
      queue: { databaseUrl: postgres.url, redisUrl: (redis ?? cluster)?.url, prefix: PREFIX, shards: SHARDS[queue] },
      partners,
      probing,
      async repair() {
        for (const { proxy } of links) {
          proxy.delay(0);
          await proxy.restore();
        }
        for (const shim of shims) await reset(shim);
        for (const victim of [...stores, ...workers.map(({ app }) => app), ...ingresses.map(({ app }) => app)]) {
          await victim.thaw();
          await victim.start();
        }
        for (const { url } of cluster?.nodes ?? (redis ? [redis] : [])) await withRedis(url, removeMemoryLimit);
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function reset({ setClock, setDiskFull }: HostShim): Promise<void> {
  await setClock(0);
  await setDiskFull(false);
}

async function prepareDatabase(databaseUrl: string): Promise<Pick<Stack, 'partners' | 'probing'>> {
  const opm = fileURLToPath(new URL('../../../apps/cli/bin/opm.js', import.meta.url));
  await promisify(execFile)(process.execPath, [opm, 'migrate'], { env: { ...process.env, DATABASE_URL: databaseUrl } });
  const store = createStore({ databaseUrl, applicationName: 'opm-chaos' });
  try {
    const partners: Project[] = [];
    while (partners.length < PARTNERS) partners.push(await store.projects.create(`partner ${partners.length}`));
    return { partners, probing: await store.projects.create('probing') };
  } finally {
    await store.close();
  }
}
