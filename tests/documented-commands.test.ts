import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';

/** Guides for operators. The second one replays the dead letter that the first one shows. */
const GUIDES = ['docs/status.md', 'docs/runbook.md', 'docs/monitoring.md'];

/** Commands that other tests run, or that need Docker or a host on the internet. */
const ELSEWHERE = [
  'docker compose logs --since 1h ingress',
  'docker compose logs --since 1h ingress | grep "refused a project\'s entries"',
  'docker compose exec ingress node -e \'fetch("http://127.0.0.1:9400/readyz").then(async (r) => console.log(await r.text()))\'',
  'docker compose up --wait',
  // Changes the firewall: needs Docker and root.
  'iptables -I INPUT -i "br-$(docker network ls -qf name=opm_published-stores)" -p tcp --dport 9093 -j ACCEPT',
  'deploy/restart-frozen.sh', // tests/docker/compose.test.ts
  'promtool test rules deploy/observability/rules.test.yml', // tests/observability.test.ts
  'OPM_KEY=opm_its_key npx opm burst --url https://api.example.com --entries 100000 --rate 5000', // apps/cli/test/burst.test.ts
];

/** The commands in the blocks of a guide, and those of `opm` in its sentences, in order. */
async function readCommands(guide: string): Promise<string[]> {
  const text = await readFile(guide, 'utf8');
  const found = text.matchAll(/^```sh\n(.*?)^```|`(npx opm [^`]+)`/gms);
  return [...found].flatMap(([, block, inline = '']) => (block ?? inline).trim().split('\n'));
}

describe.each(BACKENDS)('with the queue on %s,', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let projectId: number;
  let internalPort: string;
  let ingress: TestApp;
  let worker: TestApp;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const acme = await store.projects.create('acme');
    projectId = acme.projectId;
    internalPort = String(await findFreePort());
    ingress = await startApp('ingress', { ...backend.env, INTERNAL_PORT: internalPort });
    worker = await startApp('worker', backend.env);
    const response = await fetch(`${ingress.url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': acme.apiKey, 'content-type': 'application/json' },
      body: JSON.stringify({ customerId: 7519, customerPhone: '+1' }),
    });
    expect([response.status, await response.text()]).toEqual([201, expect.any(String)]);
    await waitFor(() => store.customers.find(projectId, '7519'), { description: 'the row' });
    const entry = { customerId: 'refused', version: Date.now() * 1_000, fields: { phone: '+1' } };
    const letter = { projectId, entry, payload: entry, error: 'refused for the test', sqlState: '22021' };
    await store.deadLetters.add([letter]);
  });
  afterAll(async () => {
    await Promise.all([ingress.stop(), worker.stop()]);
    await store.close();
    await backend.drop();
  });

  /** Runs a command as printed, but with the port, the process id and the key id of this test. */
  async function run(command: string) {
    const keys = await store.apiKeys.list(projectId);
    const real = command
      .replace('127.0.0.1:9400', `127.0.0.1:${internalPort}`)
      .replace('-p 71', `-p ${worker.pid}`)
      .replace('ID', String(keys.find(({ status }) => status === 'active')?.keyId))
      .replace('--watch', '--json'); // otherwise it does not end
    const opm = /^npx opm (.*)$/.exec(real)?.[1];
    if (opm) return runOpm(opm.split(' '), backend.env);
    const { stdout, stderr } = await promisify(execFile)('bash', ['-c', real]);
    return { code: 0, stdout, stderr };
  }

  test('the rollback in docs/systemd.md sees that the queue is empty', async () => {
    const guide = await readFile('docs/systemd.md', 'utf8');
    const [, text = 'missing'] = /^until opm status --json \| grep -q '(.+)'; do/m.exec(guide) ?? [];
    const isSeen = async () => (await runOpm(['status', '--json'], backend.env)).stdout.includes(text);
    await waitFor(isSeen, { description: text });
  });

  if (queue === 'PostgreSQL') return; // other tests run the commands that ask a queue with both

  test('every command in the guides for operators runs', async () => {
    const commands = (await Promise.all(GUIDES.map(readCommands))).flat().filter((line) => !line.startsWith('#'));
    expect(ELSEWHERE.filter((command) => !commands.includes(command))).toEqual([]);
    const here = commands.filter((command) => !ELSEWHERE.includes(command));
    expect(here.length).toBeGreaterThan(25);
    for (const command of here) {
      const { code, stderr } = await run(command);
      const isDone = code === 0 || (code === 1 && command.startsWith('npx opm status')); // 1: something is wrong
      expect({ command, isDone, stderr: isDone ? '' : stderr }).toEqual({ command, isDone: true, stderr: '' });
    }
  });
});
