import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseEnv } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { runOpm, waitFor } from '@opm/testkit';
import { type ComposeProject, createComposeProject } from './compose-project.js';
import { startLoad } from './load.js';
import { createRows } from './rows.js';

const GUIDE = fileURLToPath(new URL('../../docs/redis-cluster.md', import.meta.url));
const PATIENCE_MS = 120_000;

describe('docker compose up --wait with the profile cluster', () => {
  let stack: ComposeProject;

  beforeAll(async () => {
    const [, settings = ''] = /^cat >>\.env <<'END'\n(.*?)^END$/ms.exec(await readFile(GUIDE, 'utf8')) ?? [];
    stack = await createComposeProject('cluster', parseEnv(settings));
    await stack.compose('up', '--wait', '--build');
  });
  afterAll(async () => {
    await stack.compose('down', '--volumes');
    await stack.drop();
  });

  const NODES = [1, 2, 3, 4, 5, 6].map((n) => `redis-${n}`);
  const ask = (node: string, ...command: string[]) =>
    stack.docker('exec', `${stack.name}-${node}-1`, 'redis-cli', ...command);

  /** The nodes that answer, from the point of view of one node. */
  async function findNodes() {
    const lines = (await ask('redis-1', 'cluster', 'nodes')).split('\n').filter((line) => !line.includes('fail'));
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

  async function findMaster(): Promise<string> {
    for (const node of NODES) {
      if (/myself,master .* \d+-\d+$/m.test(await ask(node, 'cluster', 'nodes'))) return node;
    }
    throw new Error('no master has slots');
  }

  /** Resolves when a health check that starts after this call ends with that exit code. */
  async function waitForHealth(exitCode: 0 | 1): Promise<void> {
    const since = new Date();
    const isChecked = async () => {
      const { 'redis-cluster': container } = await stack.inspectServices();
      const last = container?.State.Health?.Log.at(-1);
      return last?.ExitCode === exitCode && new Date(last.Start) > since;
    };
    await waitFor(isChecked, { description: `a health check with ${exitCode}`, timeoutMs: PATIENCE_MS });
  }

  /**
   * Removes the volume of a master while these services are down. Afterwards `redis-cluster` introduces all nodes to
   * each other, and the node becomes the replica of the master that has none.
   */
  async function loseVolume(master: string, away: string[]): Promise<void> {
    await stack.compose('stop', ...away);
    await stack.compose('rm', '--force', master);
    await stack.docker('volume', 'rm', `${stack.name}_${master}`);
    await stack.compose('up', '--wait', ...NODES);
    const isIntroduced = async () => {
      const { known, alone } = await findNodes();
      return known === 6 && alone.length === 1;
    };
    await waitFor(isIntroduced, { description: 'the node to be introduced', timeoutMs: PATIENCE_MS });
    const { masters, alone } = await findNodes();
    expect(masters).toBe(3);
    await waitForHealth(1);
    expect(await ask(master, 'cluster', 'replicate', String(alone[0]))).toBe('OK');
    const isCopied = async () => (await ask(master, 'info', 'replication')).includes('master_link_status:up');
    await waitFor(isCopied, { description: 'the node to have a copy', timeoutMs: PATIENCE_MS });
  }

  test('a master that lost its volume loses no data, whether the others run or are down, is introduced again, and can become a replica', async () => {
    // Without workers, acknowledged entries are only in Redis.
    await stack.compose('stop', 'worker');
    const expectRows = await sendEntries('replaced');
    const first = await findMaster();
    await loseVolume(first, [first]);
    await loseVolume(await findMaster(), NODES);
    await waitForHealth(0);
    await stack.compose('up', '--wait');
    await expectRows();
    await expectTakesEntries('refilled');
  });
});
