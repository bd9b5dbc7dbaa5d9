import { type EmbeddedPostgres, startEmbeddedPostgres } from '@opm/embedded';
import {
  type ClusterNode,
  findChildren,
  isRunning,
  type LocalRedis,
  query,
  type RedisCluster,
  startLocalRedis,
  startRedisCluster,
  waitFor,
  withRedis,
} from '@opm/testkit';
import type { Redis } from 'ioredis';
import type { CreateShim, HostShim, StoreHost, Victim } from './victim.js';

export type PostgresVictim = StoreHost & { readonly url: string };

/** 120 connections are few enough to use up. */
const POSTGRES_FLAGS = ['max_connections=120', 'shared_buffers=128MB'];

/** Starts a durable PostgreSQL in that directory. */
export async function startPostgresVictim(dataDir: string, shim: HostShim): Promise<PostgresVictim> {
  const options = { dataDir, postgresFlags: POSTGRES_FLAGS, env: shim.env };
  let postgres: EmbeddedPostgres | undefined = await startEmbeddedPostgres(options);
  const { url, port } = postgres;

  /** Signals the server and the process of each connection. */
  async function signalAll(signal: NodeJS.Signals): Promise<void> {
    if (!postgres) return;
    for (const pid of [postgres.pid, ...(await findChildren(postgres.pid))]) {
      try {
        process.kill(pid, signal);
      } catch {
        // The process has exited meanwhile.
      }
    }
  }

  return {
    name: 'PostgreSQL',
    url,
    shim,
    async start() {
      if (postgres && !(await isRunning(postgres.pid))) postgres = undefined;
      postgres ??= await startEmbeddedPostgres({ ...options, port });
    },
    answers: () => query(url, 'SELECT 1').then(() => true),
    async end(signal) {
      const ended = postgres;
      postgres = undefined;
      if (!ended) return;
      if (signal === 'SIGTERM') return ended.stop();
      process.kill(ended.pid, 'SIGKILL');
      await waitFor(async () => !(await isRunning(ended.pid)), {
        description: 'PostgreSQL to exit',
        timeoutMs: 60_000,
      });
    },
    freeze: () => signalAll('SIGSTOP'),
    thaw: () => signalAll('SIGCONT'),
  };
}

export type RedisVictim = StoreHost & { readonly url: string };

/** Redis writes to disk before it answers. */
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always'];

/** Starts a durable Redis in that directory. */
export async function startRedisVictim(directory: string, shim: HostShim): Promise<RedisVictim> {
  const start = (port?: number) =>
    startLocalRedis({
      directory,
      flags: DURABLE,
      env: shim.env,
      detached: true,
      ...(port !== undefined && { port }),
    });
  let redis: LocalRedis | undefined = await start();
  const { url, port } = redis;
  const signalIt = async (signal: NodeJS.Signals) => {
    if (redis) process.kill(redis.pid, signal);
  };
  return {
    name: 'Redis',
    url,
    shim,
    async start() {
      if (redis && !(await isRunning(redis.pid))) redis = undefined;
      redis ??= await start(port);
    },
    async end(signal) {
      const ended = redis;
      redis = undefined;
      await ended?.stop(signal);
    },
    answers: () => withRedis(url, (client) => client.ping()).then(() => true),
    freeze: () => signalIt('SIGSTOP'),
    thaw: () => signalIt('SIGCONT'),
  };
}

/** A master and its replica. Each failover swaps their roles. */
export type Pair = Record<'master' | 'replica', Victim> & {
  readonly name: string;
  /** The shim of both nodes. */
  readonly shim: HostShim;
  /** URL of the current master. */
  findMasterUrl(): Promise<string>;
  /** Promotes the replica once it has all data of the master. */
  swap(): Promise<void>;
};

/** The whole cluster as one victim, and its pairs. */
export type ClusterVictim = Victim & Pick<RedisCluster, 'url' | 'nodes' | 'waitUntilWhole'> & { pairs: Pair[] };

const MASTERS = 3;
/**
 * A master refuses writes that its replica would not get. Otherwise writes whose caller waits in vain for the replica
 * would stay.
 */
const REFUSING = ['--min-replicas-to-write', '1'];

/** Starts a durable Redis Cluster in that directory: three masters with one replica each. */
export async function startClusterVictim(directory: string, createShim: CreateShim): Promise<ClusterVictim> {
  const shims = await Promise.all(Array.from({ length: MASTERS }, (_, n) => createShim(`pair ${n + 1}`)));
  const cluster = await startRedisCluster({
    directory,
    masters: MASTERS,
    replicasPerMaster: 1,
    flags: [...DURABLE, ...REFUSING],
    detached: true,
    envOf: (n) => shims[n % MASTERS]?.env,
  });
  const { url, nodes, waitUntilWhole } = cluster;
  const all = (act: (node: ClusterNode) => unknown) => async () => void (await Promise.all(nodes.map(act)));
  return {
    name: 'Redis Cluster',
    url,
    nodes,
    pairs: nodes
      .slice(0, MASTERS)
      .map((node, n) => createPair(`pair ${n + 1}`, shims[n] as HostShim, [node, nodes[MASTERS + n] as ClusterNode])),
    waitUntilWhole,
    start: all((node) => node.start()),
    end: (signal) => all((node) => node.kill(signal))(),
    freeze: all((node) => node.signal('SIGSTOP')),
    thaw: all((node) => node.signal('SIGCONT')),
  };
}

function createPair(name: string, shim: HostShim, nodes: ClusterNode[]): Pair {
  async function find(role: 'master' | 'slave'): Promise<ClusterNode> {
    for (const node of nodes) {
      if ((await withRedis(node.url, (redis) => redis.role()))[0] === role) return node;
    }
    throw new Error(`${name} has no ${role}`);
  }
  /** The node that has the role at the time of the fault. */
  function createVictim(role: 'master' | 'replica'): Victim {
    let node: ClusterNode | undefined;
    const findIt = async () => {
      node = await find(role === 'master' ? role : 'slave');
      return node;
    };
    return {
      name: `${role} of ${name}`,
      end: async (signal) => (await findIt()).kill(signal),
      start: async () => node?.start(),
      freeze: async () => (await findIt()).signal('SIGSTOP'),
      thaw: async () => node?.signal('SIGCONT'),
    };
  }
  return {
    name,
    shim,
    master: createVictim('master'),
    replica: createVictim('replica'),
    findMasterUrl: async () => (await find('master')).url,
    async swap() {
      await withRedis((await find('slave')).url, (redis) => redis.cluster('FAILOVER'));
    },
  };
}

export const removeMemoryLimit = (redis: Redis) => redis.config('SET', 'maxmemory', '0');
