import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { runOpm, waitFor } from '@opm/testkit';
import { findReach } from './attacker.js';
import { type ComposeProject, createComposeProject } from './compose-project.js';
import { startLoad } from './load.js';
import { createRows } from './rows.js';

const GUIDE = fileURLToPath(new URL('../../docs/redis-cluster.md', import.meta.url));
const PATIENCE_MS = 120_000;

describe('docker compose up --wait with the profile cluster', () => {
  let stack: ComposeProject;

  beforeAll(async () => {
    const [, commands = ''] = /^```sh\n(cat >>\.env.*?)^```$/ms.exec(await readFile(GUIDE, 'utf8')) ?? [];
    stack = await createComposeProject('cluster');
    await stack.run(commands);
  });
  afterAll(async () => {
    await stack.compose('down', '--volumes');
    await stack.drop();
  });

  const NODES = [1, 2, 3, 4, 5, 6].map((n) => `redis-node-${n}`);
  const ask = (node: string, ...command: string[]) =>
    stack.docker('exec', `${stack.name}-${node}-1`, 'opm-redis-cli', ...command);

  /** The nodes that answer, from the point of view of one node. */
  async function findNodes() {
    const lines = (await ask('redis-node-1', 'cluster', 'nodes')).split('\n').filter((line) => !line.includes('fail'));
    const nodes = lines.map((line) => line.split(' '));
    const masters = nodes.filter(([, , flags, , , , , , slots]) => flags?.includes('master') && slots);
    const followed = nodes.map(([, , , master]) => master);
    return {
      known: nodes.length,
      masters: masters.length,
      /** Ids of masters without a replica. */
      alone: masters.map(([id]) => id as string).filter((id) => !followed.includes(id)),
    };
  }

  /**
   * Sends entries, all of which must be accepted.
   * @returns a function that waits until they are the rows
   */
  async function sendEntries(name: string): Promise<() => Promise<void>> {
    const { stdout } = await runOpm(['projects', 'create', name, '--json'], { DATABASE_URL: stack.databaseUrl });
    const { projectId, apiKey } = JSON.parse(stdout);
    const load = startLoad({ url: stack.url, apiKey });
    try {
      await load.goesOn();
      await load.end();
    } finally {
      await load.drop();
    }
    expect(load.failures).toEqual([]);
    return () => createRows(stack.databaseUrl, projectId).catchUp(load.acknowledged);
  }

  const expectTakesEntries = async (name: string) => (await sendEntries(name))();

  test('three masters have a replica each, and entries are acknowledged when it has them', async () => {
    await expectTakesEntries('replicated');
    // Nodes spread such news within seconds, so the asked node may learn it later than others.
    const isPaired = async () => {
      const { known, masters, alone } = await findNodes();
      return known === 6 && masters === 3 && alone.length === 0;
    };
    await waitFor(isPaired, { description: 'three masters with a replica each', timeoutMs: PATIENCE_MS });
  });

  test('a node reaches the other nodes and the processes that use it, and nothing outside', async () => {
    const reach = await findReach(stack, `opm-worker:${stack.name}`);
    const others = (own: string) =>
      NODES.filter((node) => node !== own).flatMap((node) => [`${node}:16379`, `${node}:6379`]);
    const apps = ['console:3001', 'ingress:3000', 'postgres:5432', 'redis:6379'];
    for (const node of NODES) expect(reach[node]).toEqual([...apps, ...others(node)].sort());
    expect(reach['redis-cluster']).toEqual(others(''));
    expect(reach.worker).toEqual(['postgres:5432', ...others(''), 'redis:6379'].sort());
  });

  async function findMaster(): Promise<string> {
    for (const node of NODES) {
      if (/myself,master .* \d+-\d+$/m.test(await ask(node, 'cluster', 'nodes'))) return node;
    }
    throw new Error('no master has slots');
  }

  /**
   * Removes the volume of a master while these services are down, and starts everything again. `redis-cluster`
   * introduces all nodes to each other, and lets the node follow the master that has no replica.
   */
  async function loseVolume(master: string, away: string[]): Promise<void> {
    await stack.compose('stop', ...away);
    await stack.compose('rm', '--force', master);
    await stack.docker('volume', 'rm', `${stack.name}_${master.replace('redis-node-', 'redis-')}`);
    await stack.compose('up', '--wait', ...NODES, 'redis-cluster');
    const isPaired = async () => {
      const { known, masters, alone } = await findNodes();
      return known === 6 && masters === 3 && alone.length === 0;
    };
    await waitFor(isPaired, { description: 'the node to be a replica', timeoutMs: PATIENCE_MS });
  }

  test('a master that lost its volume loses no data, whether the others run or are down, is introduced again and becomes a replica by itself, and docker compose up --wait waits for it', async () => {
    // Without workers, acknowledged entries are only in Redis.
    await stack.compose('stop', 'worker');
    const expectRows = await sendEntries('replaced');
    const first = await findMaster();
    await loseVolume(first, [first]);
    await loseVolume(await findMaster(), NODES);
    await stack.compose('up', '--wait');
    await expectRows();
    await expectTakesEntries('refilled');
  });
});
