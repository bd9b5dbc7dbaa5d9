import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { findFreePort } from '@opm/embedded';
import type { Redis } from 'ioredis';
import { type LocalRedis, startLocalRedis } from './provision-servers.js';
import { withRedis } from './test-database.js';
import { waitFor } from './wait-for.js';

interface RedisClusterOptions {
  /** Directory of the nodes' files; each node has a subdirectory. */
  directory: string;
  masters: number;
  replicasPerMaster: number;
  /** Options of each node, in addition to those of a cluster. */
  flags?: readonly string[];
  /**
   * Variables of each node, in addition to those of this process.
   * @param n index in `nodes`
   */
  envOf?: (n: number) => NodeJS.ProcessEnv | undefined;
  /** How long a node may be silent before the others declare it dead and promote a replica, in ms; 2,000 by default. */
  nodeTimeoutMs?: number;
  /** Whether the nodes run in their own process groups, so that Ctrl-C in the terminal does not reach them. */
  detached?: boolean;
}

export interface RedisCluster {
  /** The initial masters, in the form of REDIS_URL. */
  url: string;
  /** The initial masters in the order of their slots, then their replicas. */
  nodes: ClusterNode[];
  /** Returns the current master of the key's slot; undefined if there is none. */
  findMaster(key: string): Promise<ClusterNode | undefined>;
  /** Returns the running replicas of this master. */
  findReplicas(master: ClusterNode): Promise<ClusterNode[]>;
  /** Resolves when each master has all its replicas, all slots are served, and no node considers another one failed. */
  waitUntilWhole(): Promise<void>;
  stop(): Promise<void>;
}

export interface ClusterNode {
  port: number;
  url: string;
  isRunning(): boolean;
  /** Suspends or resumes the process. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void;
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Starts a killed node again with its files. */
  start(): Promise<void>;
}

const SLOTS = 16_384;

/** Starts a Redis Cluster of local processes. Their loopback ports stay the same. */
export async function startRedisCluster(options: RedisClusterOptions): Promise<RedisCluster> {
  const { masters, replicasPerMaster } = options;
  const nodes: ClusterNode[] = [];
  const stop = async () => void (await Promise.all(nodes.map((node) => node.kill('SIGTERM'))));
  try {
    for (let n = 0; n < masters * (1 + replicasPerMaster); n++) nodes.push(await startNode(n, options));
    await introduce(nodes);
    await Promise.all(nodes.slice(0, masters).map((node, n) => withRedis(node.url, giveSlots(n, masters))));
    await waitUntilKnown(nodes);
    await Promise.all(nodes.slice(masters).map((node, n) => makeReplica(node, nodes[n % masters] as ClusterNode)));
    await waitUntilWhole();
  } catch (error) {
    await stop();
    throw error;
  }

  async function waitUntilWhole(): Promise<void> {
    const assertWhole = async (node: ClusterNode) => {
      const [cluster, replication, known] = await withRedis(node.url, (redis) =>
        Promise.all([redis.cluster('INFO'), redis.info('replication'), redis.cluster('NODES')]),
      );
      const isInSync = /role:slave/.test(replication)
        ? /master_link_status:up/.test(replication)
        : replication.includes(`connected_slaves:${replicasPerMaster}`);
      // Without full coverage, the state is ok even if the node has not heard yet who serves some slots.
      const knowsSlots =
        String(cluster).includes(`cluster_slots_assigned:${SLOTS}`) && /cluster_state:ok/.test(String(cluster));
      if (isInSync && knowsSlots && !/fail|disconnected/.test(String(known))) return;
      throw new Error(`node ${node.port} does not see a whole cluster: ${[cluster, replication, known].join('\n')}`);
    };
    const areWhole = async () => {
      await Promise.all(nodes.map(assertWhole));
      return true;
    };
    await waitFor(areWhole, { description: 'the cluster' });
  }

  const alive = () => nodes.filter((node) => node.isRunning());

  return {
    url: nodes
      .slice(0, masters)
      .map(({ url }) => url)
      .join(','),
    nodes,
    async findMaster(key) {
      const ask = (redis: Redis) => Promise.all([redis.cluster('KEYSLOT', key), redis.cluster('SLOTS')]);
      const [slot, slots] = await Promise.any(alive().map(({ url }) => withRedis(url, ask)));
      const range = slots.find(([first, last]) => first <= slot && slot <= last);
      return alive().find(({ port }) => port === range?.[2]?.[1]);
    },
    async findReplicas(master) {
      const portOf = (node: ClusterNode) =>
        withRedis(node.url, (redis) => redis.info('replication')).then((info) =>
          Number(/^master_port:(\d+)/m.exec(info)?.[1]),
        );
      const ports = await Promise.all(alive().map(portOf));
      return alive().filter((_, n) => ports[n] === master.port);
    },
    waitUntilWhole,
    stop,
  };
}

async function startNode(n: number, options: RedisClusterOptions): Promise<ClusterNode> {
  const { directory, flags = [], envOf, nodeTimeoutMs = 2_000, detached = false } = options;
  const place = join(directory, `node-${n + 1}`);
  await mkdir(place, { recursive: true });
  const [port, busPort] = [await findFreePort(), await findFreePort()];
  const clusterFlags = Object.entries({
    'cluster-enabled': 'yes',
    'cluster-port': busPort,
    'cluster-node-timeout': nodeTimeoutMs,
    // The other slots are served even if a master without a replica is down.
    'cluster-require-full-coverage': 'no',
    // A replica can be elected however long it has been without its master.
    'cluster-replica-validity-factor': 0,
    'repl-diskless-sync-delay': 0,
  }).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const start = () =>
    startLocalRedis({ directory: place, port, flags: [...clusterFlags, ...flags], env: envOf?.(n), detached });

  let redis: LocalRedis | undefined = await start();
  return {
    port,
    url: redis.url,
    isRunning: () => redis !== undefined,
    signal(signal) {
      if (redis) process.kill(redis.pid, signal);
    },
    async kill(signal = 'SIGKILL') {
      await redis?.stop(signal);
      redis = undefined;
    },
    async start() {
      redis ??= await start();
    },
  };
}

/**
 * Each node learns of all others through the first one. Distinct config epochs avoid the resolution of epoch
 * collisions.
 */
async function introduce(nodes: ClusterNode[]): Promise<void> {
  for (const [n, node] of nodes.entries()) {
    await withRedis(node.url, (redis) => redis.cluster('SET-CONFIG-EPOCH', n + 1));
  }
  const [first, ...others] = nodes as [ClusterNode, ...ClusterNode[]];
  for (const node of others) {
    const busPort = await withRedis(node.url, (redis) => redis.config('GET', 'cluster-port'));
    await withRedis(first.url, (redis) =>
      redis.cluster('MEET', '127.0.0.1', node.port, Number((busPort as string[])[1])),
    );
  }
  await waitUntilKnown(nodes);
}

async function waitUntilKnown(nodes: ClusterNode[]): Promise<void> {
  // Before the handshake ends, a node knows the other one by a temporary id.
  const isDone = async ({ url }: ClusterNode) => {
    const known = String(await withRedis(url, (redis) => redis.cluster('NODES'))).trim();
    return known.split('\n').length === nodes.length && !known.includes('handshake');
  };
  await waitFor(async () => !(await Promise.all(nodes.map(isDone))).includes(false), {
    description: 'the nodes to know each other',
  });
}

const giveSlots = (n: number, masters: number) => async (redis: Redis) => {
  const firstOf = (master: number) => Math.floor((master * SLOTS) / masters);
  await redis.cluster('ADDSLOTSRANGE', firstOf(n), firstOf(n + 1) - 1);
};

async function makeReplica(node: ClusterNode, master: ClusterNode): Promise<void> {
  const id = await withRedis(master.url, (redis) => redis.cluster('MYID'));
  await withRedis(node.url, (redis) => redis.cluster('REPLICATE', String(id)));
}
