import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { waitFor } from '@opm/testkit';
import { type ComposeProject, createComposeProject } from './compose-project.js';
import { startLoad } from './load.js';
import { createRows } from './rows.js';

/** What docs/operations.md adds to .env. */
const SETTINGS = {
  COMPOSE_PROFILES: 'all,cluster',
  QUEUE_SHARDS: '6',
  REDIS_MIN_REPLICAS: '1',
  APP_REDIS_URL: [1, 2, 3].map((n) => `redis://:\${REDIS_PASSWORD}@redis-${n}:6379`).join(),
};
const PATIENCE_MS = 120_000;

describe('docker compose up --wait with the profile cluster', () => {
  let stack: ComposeProject;

  beforeAll(async () => {
    stack = await createComposeProject(SETTINGS);
    await stack.compose('up', '--wait', '--build');
  });
  afterAll(async () => {
    await stack.compose('down', '--volumes');
    await stack.drop();
  });

  const askNode = (n: number, ...command: string[]) =>
    stack.compose('exec', '--no-TTY', `redis-${n}`, 'redis-cli', ...command);

  /** Of all nodes that answer, as one of them sees it. */
  async function findNodes(n: number) {
    const lines = (await askNode(n, 'cluster', 'nodes')).split('\n').filter((line) => !line.includes('fail'));
    const nodes = lines.map((line) => line.split(' '));
    const masters = nodes.filter(([, , flags, , , , , , slots]) => flags?.includes('master') && slots);
    const followed = nodes.map(([, , , master]) => master);
    return {
      known: nodes.length,
      masters: masters.length,
      /** Ids of masters that no replica follows. */
      alone: masters.map(([id]) => id as string).filter((id) => !followed.includes(id)),
    };
  }

  /** Partners send entries: all of these must be accepted, and be the rows. */
  async function expectTakesEntries(name: string): Promise<void> {
    const created = await stack.compose('run', '--rm', '--no-TTY', 'opm', 'projects', 'create', name, '--json');
    const { projectId, apiKey } = JSON.parse(created);
    const load = startLoad({ url: stack.url, apiKey });
    try {
      await load.goesOn();
      await load.end();
    } finally {
      await load.drop();
    }
    expect(load.failures).toEqual([]);
    await createRows(stack.databaseUrl, projectId).catchUp(load.acknowledged);
  }

  test('three masters have a replica each, and entries are acknowledged when it has them', async () => {
    expect(await findNodes(1)).toEqual({ known: 6, masters: 3, alone: [] });
    await expectTakesEntries('replicated');
  });

  test('a node that has lost its volume is introduced to the others again, and can follow who is left alone', async () => {
    await stack.compose('rm', '--stop', '--force', 'redis-1');
    await stack.docker('volume', 'rm', `${stack.name}_redis-1`);
    const isTakenOver = async () => {
      const { known, masters } = await findNodes(2);
      return known === 5 && masters === 3;
    };
    await waitFor(isTakenOver, { description: 'its replica to take its place', timeoutMs: PATIENCE_MS });

    await stack.compose('up', '--wait');
    const isIntroduced = async () => {
      const { known, alone } = await findNodes(1);
      return known === 6 && alone.length === 1;
    };
    await waitFor(isIntroduced, { description: 'the node to be introduced', timeoutMs: PATIENCE_MS });
    expect(await findNodes(1)).toMatchObject({ masters: 3 });

    const { alone } = await findNodes(1);
    expect(await askNode(1, 'cluster', 'replicate', String(alone[0]))).toBe('OK');
    await expectTakesEntries('refilled');
  });
});
