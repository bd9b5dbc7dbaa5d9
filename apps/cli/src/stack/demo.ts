import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hashApiKey } from '@opm/core';
import type { Store } from '@opm/store';
import { readJsonFile } from './stack-file.js';

export const DEMO_PROJECT = 'demo';

/** Kept in the data folder, readable by its owner alone, so that a restart prints the same key and password. */
export type DemoSecrets = { apiKey: string; consolePassword: string };

/** The demo project with a key that works, made where there is none. */
export async function prepareDemo(store: Store, dataDir: string): Promise<DemoSecrets> {
  const file = join(dataDir, 'demo.json');
  const known = await readJsonFile<DemoSecrets>(file);
  const project = await store.projects.find(DEMO_PROJECT);
  const secrets: DemoSecrets = {
    apiKey: (await keepKey(store, project?.projectId, known?.apiKey)) ?? (await issueKey(store, project?.projectId)),
    consolePassword: known?.consolePassword ?? randomBytes(12).toString('base64url'),
  };
  await writeFile(file, JSON.stringify(secrets), { mode: 0o600 });
  return secrets;
}

async function keepKey(store: Store, projectId: number | undefined, apiKey: string | undefined) {
  if (projectId === undefined || apiKey === undefined) return undefined;
  const keyHash = hashApiKey(apiKey);
  const owner = (await store.apiKeys.findOwners([keyHash])).get(keyHash);
  return owner?.projectId === projectId ? apiKey : undefined;
}

async function issueKey(store: Store, projectId: number | undefined): Promise<string> {
  if (projectId === undefined) return (await store.projects.create(DEMO_PROJECT)).apiKey;
  return store.apiKeys.issue(projectId); // the one that was kept has ended; others may be in use
}
