import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { findFreePort } from '@opm/embedded';
import type { Redis } from 'ioredis';
import { type LocalRedis, startLocalRedis } from './local-servers.js';
import { waitFor } from './wait-for.js';
import { withRedis } from './with-redis.js';

export interface RedisClusterOptions {
  /** Where its nodes keep their files, each in a directory of its own. */
  directory: string;
  masters: number;
  replicasPerMaster: number;
  /** For each node, on top of what makes it one of a cluster. */
  flags?: readonly string[];
  /** For each node, on top of the environment of this process. @param n from 0, in the order of `nodes` */
  envOf?: (n: number) => NodeJS.ProcessEnv | undefined;
  /** How long a node may be silent before the others hold it for dead, and promote a replica. */
  nodeTimeoutMs?: number;
  /** Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
}

export interface RedisCluster {
  /** All that were masters at first, as REDIS_URL takes them. */
  url: string;
  /** First the masters, in the order of their slots, then their replicas. */
  nodes: ClusterNode[];
  /** The one that has this key's slot at present; undefined while there is none. */
  findMaster(key: string): Promise<ClusterNode | undefined>;
  /** Those of this master that run. */
  findReplicas(master: ClusterNode): Promise<ClusterNode[]>;
  /** Resolves when each master has all its replicas, all slots are served, and no node holds another for failed. */
  waitUntilWhole(): Promise<void>;
  stop(): Promise<void>;
}

export interface ClusterNode {
  port: number;
  url: string;
  isRunning(): boolean;
  /** Stops or continues it. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void;
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Again after it was killed, with its files. */
  start(): Promise<void>;
}

const SLOTS = 16_384;

/** A Redis Cluster of processes on loopback ports that stay the same. */
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
      if (isInSync && /cluster_state:ok/.test(String(cluster)) && !/fail|disconnected/.test(String(known))) return;
      throw new Error(`of node ${node.port}: ${[cluster, replication, known].join('\n')}`);
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
    // The slots of the others are served also while those of a master without a replica are not.
    'cluster-require-full-coverage': 'no',
    // A replica stands for election however long it has been without its master.
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

/** Each learns of all others through the first. Epochs of their own spare them to settle which of two equal ones counts. */
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
  // Until two have shaken hands, one knows the other by a name that is not its own.
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
