import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { type CustomerEntry, foldEntries } from '@opm/core';
import { createTestDatabase, query, type TestDatabase, waitFor } from '@opm/testkit';
import pg from 'pg';
import { createStore, type Store } from '../src/index.js';

const T0 = 1_764_000_000_000_000; // a version is a clock in microseconds
const SECOND = 1_000_000;

let database: TestDatabase;
let store: Store;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  await query(database.url, 'TRUNCATE customers, dead_letters');
  await query(database.url, 'UPDATE high_water_mark SET version = 0');
});

const openStore = () => createStore({ databaseUrl: database.url, applicationName: 'test', lockTimeoutMs: 100 });
const withStore = async (use: () => Promise<void>) => {
  store = openStore();
  await use().finally(store.close);
};
const upsert = (version: number, to = store) => {
  const entries: CustomerEntry[] = [
    { customerId: 'a', version, fields: { email: 'jane@example.com' } },
    { customerId: 'b', version: version - 1, erase: true },
  ];
  return to.customers.upsert(
    [...foldEntries(entries)].map(([customerId, state]) => ({ projectId: 1, customerId, state })),
  );
};
const addLetter = (version: number) => {
  const entry = { customerId: 'a', version, fields: { email: 'jane@example.com' } };
  return store.deadLetters.add([{ projectId: 1, entry, payload: entry, error: 'refused' }]);
};
const readMark = async () => {
  const rows = await query<{ version: string }>(database.url, 'SELECT version FROM high_water_mark');
  return Number(rows[0]?.version);
};

test.each([
  ['a customer', upsert],
  ['a dead letter', addLetter],
])('%s is written only after the mark has reached its version', async (_, write) => {
  await withStore(async () => {
    const locker = new pg.Client({ connectionString: database.url });
    await locker.connect();
    await locker.query('BEGIN; LOCK TABLE high_water_mark');
    await expect(write(T0)).rejects.toMatchObject({ kind: 'blocked' });
    const written = 'SELECT FROM customers UNION ALL SELECT FROM dead_letters';
    expect(await query(database.url, written)).toEqual([]);
    await locker.query('ROLLBACK');
    await locker.end();
    await write(T0);
    expect(await readMark()).toBeGreaterThanOrEqual(T0);
    expect(await query(database.url, written)).not.toEqual([]);
  });
});

test('all workers together raise the mark once per second of versions, and never lower it', async () => {
  await withStore(async () => {
    const other = openStore();
    await upsert(T0);
    const mark = await readMark();
    for (const version of [T0 + 1, T0 - SECOND, T0 + SECOND]) {
      await Promise.all([upsert(version), upsert(version - 1, other)]);
      expect(await readMark()).toBe(mark);
    }
    await upsert(T0 + SECOND + 1);
    expect(await readMark()).toBe(mark + SECOND + 1);
    await upsert(T0, other);
    expect(await readMark()).toBe(mark + SECOND + 1);
    await other.close();
  });
});

test('after a lost connection the mark is read again, because a new server may have a lower one', async () => {
  await withStore(async () => {
    await upsert(T0);
    await query(database.url, 'UPDATE high_water_mark SET version = 0');
    await query(
      database.url,
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND pid <> pg_backend_pid()`,
    );
    const isRaised = async () => {
      await upsert(T0 + 1);
      return (await readMark()) > T0;
    };
    await waitFor(isRaised, { description: 'the mark to be raised again' });
  });
});

test.each(['customers', 'dead_letters', 'admission.shards'])(
  'the migration starts the mark at the newest existing version, here in %s',
  async (table) => {
    await withStore(async () => {
      await upsert(T0);
      await addLetter(T0 + 1);
      if (table === 'customers') await upsert(T0 + 7);
      if (table === 'dead_letters') await addLetter(T0 + 7);
      if (table === 'admission.shards') {
        await query(database.url, 'INSERT INTO admission.shards VALUES (0, $1)', [T0 + 7]);
      }
    });
    const directory = new URL('../../../prisma/migrations/20261129110000_high_water_mark/', import.meta.url);
    const migration = await readFile(new URL('migration.sql', directory), 'utf8');
    const drop = 'DROP FUNCTION admission.admit(integer, integer, text[], boolean[], interval, bigint)';
    await query(database.url, `DROP TABLE high_water_mark; ${drop}; ${migration}`);
    expect(await readMark()).toBe(T0 + 7);
    await query(database.url, 'TRUNCATE admission.shards');
  },
);
