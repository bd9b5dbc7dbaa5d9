import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { createTestDatabase, query, type TestDatabase } from '@opm/testkit';
import pg from 'pg';
import { createStore, type Store } from '../src/index.js';

const VERSION = 1_764_000_000_000_000;
const BURST = 20_000;

let database: TestDatabase;
let store: Store;

beforeEach(async () => {
  database = await createTestDatabase();
  // Autovacuum would make PostgreSQL plan the statement again.
  await query(database.url, 'ALTER TABLE customers SET (autovacuum_enabled = false)');
  store = createStore({ databaseUrl: database.url, poolSize: 1, byIndexOnly: true, applicationName: 'test' });
});
afterEach(async () => {
  await store.close();
  await database.drop();
});

const asked = Array.from({ length: 100 }, (_, i) => ({ projectId: 1, customerId: `c${i + 1}`, version: VERSION }));

const addCustomers = (from: number, to: number) =>
  query(
    database.url,
    `INSERT INTO customers (project_id, customer_id, email, email_version, created_at, updated_at)
     SELECT 1, 'c' || i, 'jane@example.com', 1, now(), now() FROM generate_series($1::int, $2::int) AS i`,
    [from, to],
  );

/** Closes the store first, because PostgreSQL may count a connection's reads only when it ends. */
async function countRowsRead(): Promise<number> {
  await store.close();
  const read = "SELECT seq_tup_read + idx_tup_fetch AS rows FROM pg_stat_user_tables WHERE relname = 'customers'";
  return Number((await query<{ rows: string }>(database.url, read))[0]?.rows);
}

test.each([
  ['empty', 0, 'ANALYZE customers'],
  ['one page, according to its statistics', 20, 'VACUUM ANALYZE customers'],
])(
  'a look-up that was planned when the table was %s reads only the rows of its customers',
  async (_, count, maintenance) => {
    if (count > 0) await addCustomers(1, count);
    await query(database.url, maintenance);
    // From the sixth execution on, PostgreSQL may use a generic plan.
    for (let i = 0; i < 10; i++) await store.customers.findExisting(asked);
    await addCustomers(count + 1, BURST);
    for (let i = 0; i < 10; i++) expect((await store.customers.findExisting(asked)).size).toBe(asked.length);
    expect(await countRowsRead()).toBeLessThan(20 * asked.length);
  },
);

test('look-ups of one customer are not planned each time', async () => {
  const queries = jest.spyOn(pg.Client.prototype, 'query');
  for (let i = 0; i < 20; i++) await store.customers.findExisting(asked.slice(0, 1));
  const [session] = new Set(queries.mock.contexts as pg.Client[]);
  const plans = 'SELECT generic_plans, custom_plans FROM pg_prepared_statements';
  expect((await session?.query(plans))?.rows).toEqual([{ generic_plans: '15', custom_plans: '5' }]);
  queries.mockRestore();
});
