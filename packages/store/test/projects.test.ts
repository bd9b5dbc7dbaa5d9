import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { hashApiKey } from '@opm/core';
import { createTestDatabase, query, type TestDatabase } from '@opm/testkit';
import { createStore, type Store } from '../src/index.js';

let database: TestDatabase;
let store: Store;

beforeAll(async () => {
  database = await createTestDatabase();
  store = createStore({ databaseUrl: database.url, applicationName: 'test' });
});
afterAll(async () => {
  await store.close();
  await database.drop();
});

test('a project has no limit until one is set, and its keys return it', async () => {
  const { projectId, apiKey } = await store.projects.create('acme');
  await store.projects.create('another');
  const keyHash = hashApiKey(apiKey);
  const read = async () => [
    (await store.apiKeys.findOwners([keyHash])).get(keyHash),
    (await store.projects.list()).map(({ rate, burst }) => [rate, burst]),
  ];
  const none = [null, null];
  expect(await read()).toEqual([{ keyId: 1, projectId, isPaused: false, limit: undefined }, [none, none]]);
  await store.projects.setLimit(projectId, { rate: 5, burst: 1_000_000 });
  expect(await read()).toEqual([
    { keyId: 1, projectId, isPaused: false, limit: { rate: 5, burst: 1_000_000 } },
    [[5, 1_000_000], none],
  ]);
  await store.projects.setLimit(projectId, undefined);
  expect(await read()).toEqual([{ keyId: 1, projectId, isPaused: false, limit: undefined }, [none, none]]);
});

test.each(['', ' acme', 'acme ', 'acme\u00a0', '\u3000acme', 'acme\ufeff', 'acme\u2028', 'a\tb', 'x'.repeat(101)])(
  'no project is created or renamed with the name %j',
  async (name) => {
    const { projectId } = (await store.projects.find('acme')) ?? (await store.projects.create('acme'));
    const why = 'no control characters and no leading or trailing white space';
    await expect(store.projects.create(name)).rejects.toThrow(why);
    await expect(store.projects.rename(projectId, name)).rejects.toThrow(why);
  },
);

test('no project gets the name that stands for several in metrics', async () => {
  const { projectId } = await store.projects.create('others');
  const why = 'a project cannot be named "other", which stands for several in metrics';
  await expect(store.projects.create('other')).rejects.toThrow(why);
  await expect(store.projects.rename(projectId, 'other')).rejects.toThrow(why);
});

test.each([
  { rate: 0, burst: 1 },
  { rate: 1, burst: 0 },
  { rate: 1_000_001, burst: 1 },
  { rate: 1, burst: 1_000_001 },
  { rate: 0.5, burst: 1 },
  { rate: 1, burst: Number.NaN },
])('a limit of $rate a second and $burst at once is rejected', async (limit) => {
  const { projectId } = await store.projects.create(`refused ${JSON.stringify(limit)}`);
  await expect(store.projects.setLimit(projectId, limit)).rejects.toThrow(
    'rate and burst must be whole numbers from 1 to 1000000',
  );
});

test.each([
  'rate = 1',
  'burst = 1',
  'rate = 0, burst = 1',
  'rate = 1, burst = 0',
  'rate = 1000001, burst = 1',
  'rate = 1, burst = 1000001',
])('the table itself rejects an invalid limit: %s', async (values) => {
  await store.projects.create(values);
  await expect(query(database.url, `UPDATE projects SET ${values} WHERE name = '${values}'`)).rejects.toThrow(
    'projects_limit_check',
  );
});

test('the store is not healthy while a column that the ingress reads is missing', async () => {
  await store.ping();
  await query(database.url, 'ALTER TABLE projects RENAME paused_at TO missing');
  await expect(store.ping()).rejects.toThrow('paused_at');
  await query(database.url, 'ALTER TABLE projects RENAME missing TO paused_at');
  await store.ping();
});
