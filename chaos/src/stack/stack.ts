import { execFile } from 'node:child_process';
import { appendFile, chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';
import type { QueueConfig } from '@opm/queue';
import { createStore } from '@opm/store';
import { startProxy, type TcpProxy, withRedis } from '@opm/testkit';
import { empty } from '../faults/redis-faults.js';
import { type AppVictim, createAppVictim } from './app-victim.js';
import { type ClusterVictim, startClusterVictim } from './cluster-victim.js';
import { createHostShims, type HostShim } from './host-shim.js';
import { type PostgresVictim, startPostgresVictim } from './postgres-victim.js';
import { type RedisVictim, startRedisVictim } from './redis-victim.js';
import type { Victim } from './victim.js';

/** Where the queue lives. */
export type QueueStore = 'redis' | 'cluster' | 'postgres';

/** A connection between two of the processes, through a proxy of ours. */
export type Link = { name: string; proxy: TcpProxy };

export type Project = { projectId: number; apiKey: string };

const PARTNERS = 50;

export type Stack = {
  ingresses: AppVictim[];
  workers: AppVictim[];
  postgres: PostgresVictim;
  redis: RedisVictim | undefined;
  cluster: ClusterVictim | undefined;
  /** All of the three that there are. */
  stores: Victim[];
  links: Link[];
  /** Those between partners and ingresses. */
  partnerLinks: Link[];
  /** The clocks and disks of all hosts. */
  shims: HostShim[];
  /** The ingresses as partners reach them. */
  urls: string[];
  /** Past the proxies, for looking at what is there. */
  queue: QueueConfig;
  /** The projects that are loaded. */
  partners: Project[];
  /** The one that asks how things are. */
  probing: Project;
  /** Ends what faults have left, if they could not be mended. */
  mend(): Promise<void>;
  /** Does what it can, whatever fails, which `onBadEnd` hears of. */
  stop(): Promise<void>;
};

export type StackOptions = {
  /** Made here; keeps the data and the logs. */
  directory: string;
  queue: QueueStore;
  onBadEnd: (what: string) => void;
};

const COUNT = { ingress: 2, worker: 2 };
const SHARDS: Record<QueueStore, number> = { redis: 2, cluster: 6, postgres: 2 };
const PREFIX = 'opm';

const APP_ENV = {
  REDIS_PREFIX: PREFIX,
  // Short, so that what a killed worker held is soon with another one, and a frozen one outlives its locks.
  JOB_LOCK_MS: '3000',
  // Longer than any time-out of theirs: whoever takes it all waits for something that does not come.
  SHUTDOWN_TIMEOUT_MS: '40000',
};

/** Starts two ingresses and two workers on durable stores of their own, on loopback ports that stay the same. */
export async function startStack({ directory, queue, onBadEnd }: StackOptions): Promise<Stack> {
  const releases: (() => Promise<unknown>)[] = [];
  const stop = async () => {
    for (const release of releases.splice(0).reverse()) {
      await release().catch((error: Error) => onBadEnd(`the stack was not stopped well: ${error.message}`));
    }
  };
  try {
    for (const name of ['redis', 'logs']) await mkdir(join(directory, name), { recursive: true });
    await chmod(directory, 0o711); // When we are root, the account that Postgres runs as has to pass through.
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
          QUEUE_SHARDS: String(SHARDS[queue]),
          REDIS_MIN_REPLICAS: cluster ? '1' : '0',
          PORT: String(port),
          INTERNAL_PORT: String(await findFreePort()),
          DATABASE_URL: await link(`${name} – PostgreSQL`, postgres.url),
          // The nodes of a cluster tell where they are, so there is no proxy that could stand between.
          REDIS_URL: redis ? await link(`${name} – Redis`, redis.url) : (cluster?.url ?? ''),
        };
        const app = createAppVictim({ name, kind, env, shim: await createShim(name), onBadEnd, onOutput });
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
      async mend() {
        for (const { proxy } of links) {
          proxy.delay(0);
          await proxy.restore();
        }
        for (const shim of shims) await reset(shim);
        for (const victim of [...stores, ...workers.map(({ app }) => app), ...ingresses.map(({ app }) => app)]) {
          await victim.thaw();
          await victim.start();
        }
        for (const { url } of cluster?.nodes ?? (redis ? [redis] : [])) await withRedis(url, empty);
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
