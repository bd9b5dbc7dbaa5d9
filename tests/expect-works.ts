import { expect } from '@jest/globals';
import { runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';

const APPS = ['ingress', 'worker', 'console'] as const;

/**
 * Migrates, creates a project, runs every process, waits for the row of an entry, and stops the processes.
 * @param inspect is called for each process when the row is there
 * @returns the output of the processes
 */
export async function expectWorks(
  env: NodeJS.ProcessEnv,
  project: string,
  inspect: (app: TestApp) => Promise<void> = async () => {},
): Promise<string> {
  expect(await runOpm(['migrate'], env)).toMatchObject({ code: 0 });
  const created = await runOpm(['projects', 'create', project, '--json'], env);
  const { apiKey } = JSON.parse(created.stdout);

  const apps = await Promise.all(APPS.map((app) => startApp(app, env)));
  const response = await fetch(`${apps[0]?.url}/entry`, {
    method: 'POST',
    headers: { 'x-api-key': apiKey },
    body: JSON.stringify({ customerId: 'jane', customerPhone: '+1' }),
  });
  expect([response.status, await response.text()]).toEqual([201, expect.any(String)]);
  const isStored = async () => (await apps[1]?.readMetric('opm_entries_persisted_total')) === 1;
  await waitFor(isStored, { description: 'the row' });
  expect(await runOpm(['customers', 'get', project, 'jane', '--json'], env)).toMatchObject({ code: 0 });
  for (const app of apps) await inspect(app);
  for (const app of apps) expect(await app.stop()).toEqual({ code: 0, signal: null });
  return apps.map((app) => app.output()).join('');
}
