import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { hashApiKey } from '@opm/core';
import { createTestDatabase, query, type TestDatabase } from '@opm/testkit';
import pg from 'pg';
import { createStore, failureKindOf, type Store } from '../src/index.js';

let database: TestDatabase;
let store: Store;
const open = (databaseUrl: string) => createStore({ databaseUrl, connectTimeoutMs: 2_000, applicationName: 'test' });

beforeAll(async () => {
  database = await createTestDatabase();
  store = open(database.url);
});
afterAll(async () => {
  await store.close();
  await database.drop();
});

const ownerOf = async (apiKey: string) => {
  const keyHash = hashApiKey(apiKey);
  return (await store.apiKeys.findOwners([hashApiKey('another'), keyHash])).get(keyHash)?.projectId;
};

test('a key belongs to its own project, and only its hash is stored', async () => {
  const { projectId, apiKey } = await store.projects.create('acme');
  expect(await ownerOf(apiKey)).toBe(projectId);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const { rows } = await client.query('SELECT * FROM api_keys');
  await client.end();
  expect(rows[0].key_hash.toString('hex')).toBe(hashApiKey(apiKey));
  expect(JSON.stringify(rows)).not.toContain(apiKey.slice(12));
});

test('a rotation leaves two keys until the grace period ends', async () => {
  const { projectId, apiKey: old } = await store.projects.create('rotating');
  const { apiKey } = await store.apiKeys.rotate(projectId, { graceMs: 60_000 });
  expect([await ownerOf(old), await ownerOf(apiKey)]).toEqual([projectId, projectId]);
  const { apiKey: last } = await store.apiKeys.rotate(projectId, { graceMs: 0 });
  expect([await ownerOf(old), await ownerOf(apiKey), await ownerOf(last)]).toEqual([undefined, undefined, projectId]);
  expect((await store.apiKeys.list(projectId)).map(({ status }) => status)).toEqual(['expired', 'expired', 'active']);
});

test('a revoked key is invalid at once, and other keys stay valid', async () => {
  const { projectId, apiKey: first } = await store.projects.create('revoking');
  const { apiKey: second } = await store.apiKeys.rotate(projectId, { graceMs: 60_000 });
  const [{ keyId } = { keyId: 0 }] = await store.apiKeys.list(projectId);
  expect(await store.apiKeys.revoke(projectId, { keyId })).toBe(1);
  expect([await ownerOf(first), await ownerOf(second)]).toEqual([undefined, projectId]);
  expect(await store.apiKeys.revoke(projectId)).toBe(1);
  expect(await ownerOf(second)).toBeUndefined();
  expect(await store.apiKeys.revoke(projectId)).toBe(0);
});

test('the revision changes when a key ends or a limit changes, and not when a key is added', async () => {
  const { projectId } = await store.projects.create('revised');
  const first = await store.apiKeys.readRevision();
  await store.projects.create('another');
  await store.apiKeys.issue(projectId);
  expect(await store.apiKeys.readRevision()).toBe(first);

  const revisions = [first];
  for (const change of [
    () => store.apiKeys.rotate(projectId, { graceMs: 60_000 }),
    () => store.apiKeys.revoke(projectId),
    () => store.projects.setLimit(projectId, { rate: 1, burst: 1 }),
    () => query(database.url, 'DELETE FROM api_keys WHERE project_id = $1', [projectId]), // by hand
    () => query(database.url, 'DELETE FROM access_revision'),
    () => store.projects.setLimit(projectId, undefined),
  ]) {
    await change();
    revisions.push(await store.apiKeys.readRevision());
  }
  expect(new Set(revisions).size).toBe(7);
});

test.each(['', ' ', 'a\nb', ' a', 'a ', 'x'.repeat(101)])('the name %j is rejected', async (name) => {
  await expect(store.projects.create(name)).rejects.toThrow('a project name must have');
});

test('a taken name is rejected, and the error contains it', async () => {
  await store.projects.create('taken');
  await expect(store.projects.create('taken')).rejects.toThrow('a project named "taken" already exists');
});

test('an unreachable server, a wrong password and a missing database are outages', async () => {
  const wrongPassword = new URL(database.url);
  wrongPassword.password = 'wrong';
  const noDatabase = new URL(database.url);
  noDatabase.pathname = 'none';
  for (const url of ['postgresql://opm:opm@127.0.0.1:1/opm', wrongPassword.href, noDatabase.href]) {
    const away = open(url);
    const error = await away.ping().catch((reason) => reason);
    await away.close();
    expect(error.name).toBe('StoreError');
    expect(failureKindOf(error)).toBe('outage');
  }
});

test('the label and the last use of a key are listed, and a use does not change the revision', async () => {
  const { projectId } = await store.projects.create('labelled');
  const { apiKey } = await store.apiKeys.rotate(projectId, { graceMs: 60_000, label: 'billing' });
  const [first, second] = await store.apiKeys.list(projectId);
  expect([first, second]).toMatchObject([
    { label: null, lastUsedAt: null },
    { label: 'billing', lastUsedAt: null, hint: apiKey.slice(0, 10) },
  ]);
  expect(await store.apiKeys.setLabel(projectId, first?.keyId ?? 0, 'crm')).toBe(true);
  expect(await store.apiKeys.setLabel(projectId + 1, first?.keyId ?? 0, 'stolen')).toBe(false);
  const revision = await store.apiKeys.readRevision();
  const process = { id: randomUUID(), name: 'ingress', host: 'host', pid: 1, version: '1.0.0', uptimeSeconds: 1 };
  const usedKeys = [second?.keyId ?? 0];
  await store.activity.report({ ...process, report: 1, state: {}, counts: new Map(), usedKeys }, []);
  expect(await store.apiKeys.list(projectId)).toMatchObject([
    { label: 'crm', lastUsedAt: null },
    { label: 'billing', lastUsedAt: expect.any(Date) },
  ]);
  expect(await store.apiKeys.readRevision()).toBe(revision);
});
