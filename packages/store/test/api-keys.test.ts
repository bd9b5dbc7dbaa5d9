import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { hashApiKey, SCOPES } from '@opm/core';
import { createTestDatabase, query, type TestDatabase } from '@opm/testkit';
import pg from 'pg';
import { createStore, failureKindOf, type NewKey, type Store } from '../src/index.js';

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

describe('the rules of a key', () => {
  const ruleOf = async (projectId: number) => {
    const { scopes, addresses } = (await store.apiKeys.list(projectId)).at(-1) ?? {};
    return [scopes, addresses];
  };
  const ALL = ['write', 'read', 'erase'];

  test('a rotation keeps what the keys may, unless it says otherwise; if they differ, it must say', async () => {
    const { projectId } = await store.projects.create('restricted');
    expect(await ruleOf(projectId)).toEqual([ALL, []]);
    await store.apiKeys.issue(projectId, { scopes: ['read', 'write', 'read'], addresses: ['2001:DB8::/32', '::1'] });
    expect(await ruleOf(projectId)).toEqual([
      ['write', 'read'],
      ['2001:db8::/32', '::1'],
    ]);
    const rotate = (rules: Pick<NewKey, 'scopes' | 'addresses'>, graceMs = 60_000) =>
      store.apiKeys.rotate(projectId, { graceMs, ...rules });
    const [first] = await store.apiKeys.list(projectId);
    for (const rules of [{}, { scopes: ['read' as const] }, { addresses: [] }]) {
      await expect(rotate(rules)).rejects.toThrow("the project's keys differ in scopes or addresses");
    }
    expect(await store.apiKeys.list(projectId)).toHaveLength(2);
    await store.apiKeys.revoke(projectId, { keyId: first?.keyId });
    const rotated = await rotate({});
    expect(rotated).toMatchObject({ scopes: ['write', 'read'], addresses: ['2001:db8::/32', '::1'] });
    expect(await ruleOf(projectId)).toEqual([rotated.scopes, rotated.addresses]);
    expect(await rotate({ scopes: ['erase'] })).toMatchObject({
      scopes: ['erase'],
      addresses: ['2001:db8::/32', '::1'],
    });
    expect(await rotate({ addresses: [] })).toMatchObject({ scopes: ['erase'], addresses: [] });
    expect(await rotate({ scopes: [...SCOPES], addresses: ['203.0.113.7'] }, 0)).toMatchObject({
      ...{ scopes: ALL, addresses: ['203.0.113.7'] },
    });
    await store.apiKeys.issue(projectId, { scopes: ['read'] });
    const newest = (await store.apiKeys.list(projectId)).at(-1)?.keyId;
    await store.apiKeys.revoke(projectId, { keyId: newest });
    expect(await rotate({})).toMatchObject({ scopes: ALL, addresses: ['203.0.113.7'] });
    await store.apiKeys.revoke(projectId);
    expect(await rotate({})).toMatchObject({ scopes: ALL, addresses: [] });
  });

  test('keys with the same rules in another order do not differ', async () => {
    const { projectId } = await store.projects.create('same rules');
    await store.apiKeys.revoke(projectId);
    const addresses = ['203.0.113.7', '::1'];
    for (const given of [addresses, addresses.toReversed()]) await store.apiKeys.issue(projectId, { addresses: given });
    const rotated = await store.apiKeys.rotate(projectId, { graceMs: 0 });
    expect(rotated.addresses).toEqual(addresses.toReversed());
  });

  test('an owner has rules only if they restrict the key', async () => {
    const { projectId } = await store.projects.create('owners');
    const rulesOf = async (given: NewKey) => {
      const keyHash = hashApiKey(await store.apiKeys.issue(projectId, given));
      const { scopes, addresses } = (await store.apiKeys.findOwners([keyHash])).get(keyHash) ?? {};
      return { scopes, addresses };
    };
    expect(await rulesOf({})).toEqual({});
    expect(await rulesOf({ scopes: [...SCOPES].reverse(), addresses: [] })).toEqual({});
    expect(await rulesOf({ scopes: ['erase'] })).toEqual({ scopes: ['erase'] });
    expect(await rulesOf({ addresses: ['::1'] })).toEqual({ addresses: ['::1'] });
  });

  test.each([
    [{ scopes: [] }, 'scopes must be one or more of write, read, erase'],
    [{ scopes: ['all' as 'read'] }, 'scopes must be one or more of write, read, erase'],
    [{ addresses: ['here'] }, 'addresses must be IP addresses or blocks such as 203.0.113.0/24, not "here"'],
    [{ addresses: Array.from({ length: 51 }, (_, i) => `10.0.0.${i}`) }, 'a key must have at most 50 addresses'],
  ])('%j is refused, and makes no key', async (rules, message) => {
    const { projectId } = (await store.projects.find('owners')) ?? { projectId: 0 };
    const before = await store.apiKeys.list(projectId);
    await expect(store.apiKeys.issue(projectId, rules)).rejects.toThrow(message);
    await expect(store.apiKeys.rotate(projectId, { graceMs: 0, ...rules })).rejects.toThrow(message);
    expect(await store.apiKeys.list(projectId)).toEqual(before);
  });

  test('active keys are listed newest first, at most 100, without ids, and none of another project', async () => {
    const { projectId, apiKey } = await store.projects.create('many keys');
    await store.projects.create('of another');
    await store.apiKeys.rotate(projectId, { graceMs: 60_000, label: 'second', scopes: ['read'], addresses: ['::1'] });
    const key = { createdAt: expect.any(Date), lastUsedAt: null, hint: expect.stringMatching(/^opm_\w{6}$/) };
    expect(await store.apiKeys.listActive(projectId)).toEqual([
      { ...key, label: 'second', scopes: ['read'], addresses: ['::1'], expiresAt: null },
      { ...key, hint: apiKey.slice(0, 10), label: null, scopes: ALL, addresses: [], expiresAt: expect.any(Date) },
    ]);
    await query(
      database.url,
      `UPDATE api_keys SET expires_at = 'infinity' WHERE project_id = $1 AND label = 'second'`,
      [projectId],
    );
    expect((await store.apiKeys.listActive(projectId))[0]?.expiresAt).toBeNull();
    expect((await store.apiKeys.list(projectId)).at(-1)?.expiresAt).toBeNull();
    await store.apiKeys.rotate(projectId, { graceMs: 0, label: 'third' });
    expect((await store.apiKeys.listActive(projectId)).map(({ label }) => label)).toEqual(['third']);
    await store.apiKeys.revoke(projectId);
    expect(await store.apiKeys.listActive(projectId)).toEqual([]);
    for (let i = 0; i < 101; i++) await store.apiKeys.issue(projectId, { label: String(i) });
    const labels = (await store.apiKeys.listActive(projectId)).map(({ label }) => label);
    expect([labels.length, labels[0], labels.at(-1)]).toEqual([100, '100', '1']);
  });
});
