import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { type CustomerEntry, foldEntries } from '@opm/core';
import { createTestDatabase, type TestDatabase, waitFor } from '@opm/testkit';
import pg from 'pg';
import { createStore, type Store } from '../src/index.js';

let database: TestDatabase;
let store: Store;
let client: pg.Client;

beforeAll(async () => {
  database = await createTestDatabase();
  store = createStore({ databaseUrl: database.url, poolSize: 4, applicationName: 'test' });
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await store.close();
  await database.drop();
});
beforeEach(() => client.query('TRUNCATE customers, dead_letters, erasures RESTART IDENTITY'));

const T0 = 1_764_000_000_000_000; // a version is a clock in microseconds
const entryOf = (customerId: string, version: number): CustomerEntry => ({
  customerId,
  version,
  fields: { email: 'jane@example.com' },
});
const add = (customerId: string, { projectId = 1, version = T0, error = 'refused', sqlState = '22021' } = {}) => {
  const entry = entryOf(customerId, version);
  return store.deadLetters.add([{ projectId, entry, payload: entry, error, sqlState }]);
};
const upsert = (...entries: CustomerEntry[]) =>
  store.customers.upsert([...foldEntries(entries)].map(([customerId, state]) => ({ projectId: 1, customerId, state })));
const listed = async (filter: Parameters<Store['deadLetters']['list']>[0] = {}) =>
  (await store.deadLetters.list(filter, { limit: 100 })).map(({ customerId }) => customerId);

test('letters are found by id, project, time, error text, SQLSTATE, and combinations of these', async () => {
  await add('a');
  await add('b', { projectId: 2, error: 'value TOO long', sqlState: '22001' });
  await store.deadLetters.add([{ payload: { odd: 1 }, error: 'job data is not a chunk' }]);
  await client.query(`UPDATE dead_letters SET created_at = '2026-11-20T12:00:00Z' WHERE customer_id = 'a'`);

  expect(await listed()).toEqual([null, 'b', 'a']);
  expect(await listed({ projectId: 2 })).toEqual(['b']);
  expect(await listed({ until: new Date('2026-11-20T12:00:00Z') })).toEqual([]);
  expect(await listed({ until: new Date('2026-11-20T12:00:01Z') })).toEqual(['a']);
  expect(await listed({ since: new Date('2026-11-20T12:00:00Z') })).toEqual([null, 'b', 'a']);
  expect(await listed({ since: new Date('2026-11-20T12:00:01Z') })).toEqual([null, 'b']);
  expect(await listed({ error: 'too LONG' })).toEqual(['b']);
  expect(await listed({ error: '22021' })).toEqual([]);
  expect(await listed({ sqlState: '22021' })).toEqual(['a']);
  expect(await listed({ error: '%' })).toEqual([]);
  expect(await listed({ deadLetterId: '1' })).toEqual(['a']);
  expect(await listed({ deadLetterId: '1', projectId: 2 })).toEqual([]);
  expect(await store.deadLetters.count({ sqlState: '22' })).toEqual(
    expect.arrayContaining([
      { projectId: 1, sqlState: '22021', count: 1 },
      { projectId: 2, sqlState: '22001', count: 1 },
    ]),
  );
});

test('discarding deletes only the letters that match the filter', async () => {
  await add('a');
  await add('b', { projectId: 2 });
  expect(await store.deadLetters.discard({ projectId: 2 })).toBe(1);
  expect(await listed()).toEqual(['a']);
});

test('pages return all letters once, the oldest first', async () => {
  for (const customerId of ['a', 'b', 'c', 'd']) await add(customerId);
  const first = await store.deadLetters.page({}, { afterId: '0', throughId: '3', limit: 2 });
  const second = await store.deadLetters.page({}, { afterId: '2', throughId: '3', limit: 2 });
  expect([...first, ...second].map(({ payload }) => payload)).toEqual(['a', 'b', 'c'].map((id) => entryOf(id, T0)));
});

test('concurrent takers take a letter once', async () => {
  await add('a');
  const takers = await Promise.all([1, 2, 3].map(() => store.deadLetters.take(['1'], async () => {})));
  expect(takers.sort()).toEqual([0, 0, 1]);
  expect(await listed()).toEqual([]);
});

test('letters stay if their delivery fails', async () => {
  await add('a');
  const taken = store.deadLetters.take(['1'], async () => {
    throw new Error('the queue is away');
  });
  await expect(taken).rejects.toThrow('the queue is away');
  expect(await listed()).toEqual(['a']);
});

test('an entry that is rejected again while its letter is being taken becomes a letter again', async () => {
  await add('a', { error: 'first' });
  let again: Promise<void> | undefined;
  await store.deadLetters.take(['1'], async () => {
    again = add('a', { error: 'second' });
    const waiting = `SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'`;
    while ((await client.query(waiting)).rowCount === 0);
  });
  await again;
  expect((await store.deadLetters.list({}, { limit: 1 }))[0]).toMatchObject({ customerId: 'a', error: 'second' });
});

test('an erasure deletes the older dead letters of its customer', async () => {
  await add('a', { version: T0 });
  await add('a', { version: T0 + 2 });
  await add('b', { version: T0 });
  await upsert({ customerId: 'a', version: T0 + 1, erase: true });
  const letters = await store.deadLetters.list({}, { limit: 10 });
  expect(letters.map(({ customerId, version }) => [customerId, Number(version)])).toEqual([
    ['b', T0],
    ['a', T0 + 2],
  ]);
});

test('an erasure deletes the dead letters of a customer with the longest possible id', async () => {
  const customerId = '\u{1F9D1}'.repeat(255);
  await add(customerId);
  expect(await listed()).toEqual([customerId]);
  await upsert({ customerId, version: T0 + 1, erase: true });
  await add(customerId);
  expect(await listed()).toEqual([]);
});

test('an entry that is rejected after its customer was erased gets no letter, a newer entry does', async () => {
  await upsert({ customerId: 'a', version: T0 + 1, erase: true });
  await add('a', { version: T0 });
  await add('a', { version: T0 + 2 });
  await add('a', { version: T0, projectId: 2 });
  const letters = await store.deadLetters.list({}, { limit: 10 });
  expect(letters.map(({ projectId, version }) => [projectId, Number(version)])).toEqual([
    [2, T0],
    [1, T0 + 2],
  ]);
});

/** Resolves when a statement waits for a lock of the test's own session. */
const untilBlocked = () =>
  waitFor(
    async () =>
      (await client.query('SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))')).rowCount,
    { description: 'a statement that waits' },
  );

test('a letter that is stored while its customer is being erased is deleted', async () => {
  await upsert({ customerId: 'a', version: T0, erase: true });
  await client.query(`BEGIN; SELECT FROM erasures WHERE customer_id = 'a' FOR UPDATE`);
  const erasing = upsert({ customerId: 'a', version: T0 + 2, erase: true });
  await untilBlocked();
  await add('a', { version: T0 + 1 });
  await client.query('COMMIT');
  await erasing;
  expect(await listed()).toEqual([]);
});

test('a letter whose customer is erased while it is being stored is deleted', async () => {
  await client.query(
    `BEGIN; INSERT INTO dead_letters (project_id, customer_id, version, payload, error) VALUES (1, 'a', ${T0}, '{}', 'x')`,
  );
  const adding = add('a', { version: T0 });
  await untilBlocked();
  await upsert({ customerId: 'a', version: T0 + 1, erase: true });
  await client.query('ROLLBACK');
  await adding;
  expect(await listed()).toEqual([]);
});

test('no tombstone is purged while there is a letter without a project', async () => {
  const later = new Date((T0 + 5_000) / 1_000);
  await upsert({ customerId: 'a', version: T0 + 1, erase: true });
  await store.deadLetters.add([{ payload: { odd: 1 }, error: 'job data is not a chunk' }]);
  expect(await store.customers.purgeTombstones(later)).toBe(0);
  const asked = [
    { projectId: 1, customerId: 'a', version: T0 },
    { projectId: 1, customerId: 'a', version: T0 + 2 },
    { projectId: 2, customerId: 'a', version: T0 },
    { projectId: 1, customerId: 'a', version: T0 + 1 },
  ];
  expect(await store.customers.findErased(asked)).toEqual(new Set([0, 3]));
  await store.deadLetters.discard({});
  expect(await store.customers.purgeTombstones(later)).toBe(1);
});

test('purging removes old tombstones, and neither recent ones nor customers that came back', async () => {
  const erased = (customerId: string, version: number) => upsert({ customerId, version, erase: true });
  await erased('old', T0);
  await erased('recent', T0 + 10_000);
  await erased('back', T0);
  await upsert(entryOf('back', T0 + 1));
  await erased('twice', T0);
  await erased('twice', T0 + 10_000);
  // A letter older than the erasure, as a former version of this program could leave: its job ended after the
  // erasure's.
  await client.query(
    "INSERT INTO dead_letters (project_id, customer_id, version, payload, error) VALUES (1, 'old', $1, '{}', 'x')",
    [T0 - 1],
  );
  await add('back', { version: T0 + 2 });

  expect(await store.customers.purgeTombstones(new Date((T0 + 5_000) / 1_000))).toBe(1);
  const { rows } = await client.query('SELECT customer_id FROM customers ORDER BY customer_id');
  expect(rows.map(({ customer_id }) => customer_id)).toEqual(['back', 'recent', 'twice']);
  expect(await listed()).toEqual(['back']);
  expect(await store.customers.purgeTombstones(new Date((T0 + 5_000) / 1_000))).toBe(0);
  expect(await store.customers.purgeTombstones(new Date((T0 + 20_000) / 1_000))).toBe(2);
});

test('purging deletes any number of tombstones', async () => {
  const entries = Array.from({ length: 12_000 }, (_, i) => ({
    customerId: `c${i}`,
    version: T0,
    erase: true as const,
  }));
  await upsert(...entries);
  expect(await store.customers.purgeTombstones(new Date(T0 / 1_000 + 1))).toBe(12_000);
  expect((await client.query('SELECT FROM erasures')).rowCount).toBe(0);
});
