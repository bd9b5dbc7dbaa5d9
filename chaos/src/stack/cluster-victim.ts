import { type ClusterNode, type RedisCluster, startRedisCluster, withRedis } from '@opm/testkit';
import type { CreateShim, HostShim } from './host-shim.js';
import { DURABLE } from './redis-victim.js';
import type { Victim } from './victim.js';

/** A master and its replica: each failover makes one of the other. */
export type Pair = Record<'master' | 'replica', Victim> & {
  readonly name: string;
  /** Of both. */
  readonly shim: HostShim;
  /** That of the one that is the master now. */
  findMasterUrl(): Promise<string>;
  /** Has the replica take over, when it has all that the master has. */
  swap(): Promise<void>;
};

/** All its nodes together, and in pairs. */
export type ClusterVictim = Victim & Pick<RedisCluster, 'url' | 'nodes' | 'waitUntilWhole'> & { pairs: Pair[] };

const MASTERS = 3;
/** A master takes no writes that its replica would not get: those that wait for it in vain would stay. */
const REFUSING = ['--min-replicas-to-write', '1'];

/** A durable Redis Cluster in that directory, started: three masters with a replica each. */
export async function startClusterVictim(directory: string, createShim: CreateShim): Promise<ClusterVictim> {
  const shims = await Promise.all(Array.from({ length: MASTERS }, (_, n) => createShim(`pair ${n + 1}`)));
  const cluster = await startRedisCluster({
    ...{ directory, masters: MASTERS, replicasPerMaster: 1 },
    ...{ flags: [...DURABLE, ...REFUSING], detached: true },
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
  /** Whichever has that role when it is ended or frozen. */
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
