import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  createDatabase,
  createTestDatabase,
  query,
  runOpm,
  type TestDatabase,
  testPrefix,
  waitFor,
} from '@opm/testkit';
import { createStore, type Store, toCustomerTarget } from '../src/index.js';

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

test('the newest rows come first, and can be chosen by actor and time', async () => {
  const at = await store.now();
  await store.audit.record({ actor: 'ada', source: 'cli', action: 'projects pause', target: 'acme' });
  const details = { rate: 5, isStrict: true, note: null };
  await store.audit.record({ actor: 'bob', source: 'console', address: '::1', action: 'projects limits', details });
  const rows = await store.audit.list({}, { limit: 10 });
  const none = { address: null, target: null, details: null, outcome: null };
  expect(rows).toEqual([
    {
      ...none,
      ...{ auditId: '2', actor: 'bob', source: 'console', address: '::1' },
      ...{ action: 'projects limits', details, at: expect.any(Date) },
    },
    {
      ...none,
      ...{ auditId: '1', actor: 'ada', source: 'cli' },
      ...{ action: 'projects pause', target: 'acme', at: expect.any(Date) },
    },
  ]);
  expect(rows.every((row) => row.at >= at)).toBe(true);
  const read = async (...args: Parameters<Store['audit']['list']>) =>
    (await store.audit.list(...args)).map(({ auditId }) => auditId);
  expect(await read({ actor: 'ada' }, { limit: 10 })).toEqual(['1']);
  expect(await read({ since: rows[0]?.at }, { limit: 10 })).toEqual(['2']);
  expect(await read({}, { limit: 1 })).toEqual(['2']);
  expect(await read({}, { limit: 10, beforeId: '2' })).toEqual(['1']);
});

test('a change that was refused or failed is listed once, with its outcome, on whichever page it is', async () => {
  const row = { actor: 'eve', source: 'console', action: 'keys rotate', target: 'acme' } as const;
  const refused = await store.audit.record({ ...row, details: { label: 'x' } });
  await store.audit.record(row);
  await store.audit.recordOutcome(refused, 'not done', row);
  await store.audit.recordOutcome(await store.audit.record(row), 'failed', row);
  const list = async (limit: number) =>
    (await store.audit.list({ actor: 'eve' }, { limit })).map(({ details, outcome }) => [details, outcome]);
  expect(await list(10)).toEqual([
    [null, 'failed'],
    [null, null],
    [{ label: 'x' }, 'not done'],
  ]);
  expect(await list(1)).toEqual([[null, 'failed']]);
  const readPages = async (beforeId?: string): Promise<unknown[]> => {
    const [row] = await store.audit.list({ actor: 'eve' }, { limit: 1, beforeId });
    return row ? [row.outcome, ...(await readPages(row.auditId))] : [];
  };
  expect(await readPages()).toEqual(['failed', null, 'not done']);
});

test('the outcomes of a page are found without reading a long audit log', async () => {
  const long = await createTestDatabase();
  const reader = createStore({ databaseUrl: long.url, applicationName: 'test' });
  const ROWS = 20_000;
  await query(
    long.url,
    `INSERT INTO audit_log (at, actor, source, action) SELECT now() - i * interval '1 min', 'ada', 'cli', 'x' FROM generate_series(1, ${ROWS}) AS i`,
  );
  await query(long.url, 'ANALYZE audit_log');
  const readStatistics = async () => {
    const text = `SELECT (seq_scan + idx_scan)::int AS scans, (seq_tup_read + idx_tup_fetch)::int AS rows
      FROM pg_stat_user_tables WHERE relname = 'audit_log'`;
    const [statistics = { scans: 0, rows: 0 }] = await query<{ scans: number; rows: number }>(long.url, text);
    return statistics;
  };
  const before = await readStatistics();
  expect(await reader.audit.list({}, { limit: 200 })).toHaveLength(200);
  await reader.close(); // PostgreSQL then publishes the connection's statistics
  const after = await waitFor(
    async () => {
      const statistics = await readStatistics();
      return statistics.scans > before.scans && statistics;
    },
    { description: 'the statistics' },
  );
  expect(after.rows - before.rows).toBeLessThan(2 * ROWS);
  await long.drop();
});

test("the rows of a partner, its customers and its keys can be chosen, and no other's", async () => {
  const targets = ['a_b', toCustomerTarget('a_b', 'käufer-4711'), 'a_b/7', 'a_bc', 'axb', 'axb/7', undefined];
  for (const target of targets) await store.audit.record({ actor: 'max', source: 'cli', action: 'x', target });
  const found = await store.audit.list({ actor: 'max', target: 'a_b' }, { limit: 10 });
  expect(found.map(({ target }) => target)).toEqual(['a_b/7', 'a_b/kä…', 'a_b']);
});

test.each([
  ['käufer-4711', 'acme/kä…'],
  ['👩🚀-123', 'acme/👩🚀…'],
  ['12345', 'acme/…'],
  ['a', 'acme/…'],
])(
  'a customer is named by the project and two characters of an id that has more than five: %s',
  (customerId, target) => {
    expect(toCustomerTarget('acme', customerId)).toBe(target);
  },
);

test('the migration takes the right to change it from the role of an earlier release, which gets all rights on later tables', async () => {
  const older = await createDatabase({ adminUrl: process.env.OPM_TEST_ADMIN_URL as string });
  const role = testPrefix();
  await query(
    older.url,
    `CREATE ROLE ${role}; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO ${role}, PUBLIC`,
  );
  expect(await runOpm(['migrate'], { DATABASE_URL: older.url, REDIS_URL: '' })).toMatchObject({ code: 0 });
  const text = `SELECT has_table_privilege($1, t, 'UPDATE') AS update, has_table_privilege($1, t, 'DELETE') AS delete,
    has_table_privilege($1, t, 'TRUNCATE') AS truncate FROM unnest(ARRAY['audit_log', 'operators']) AS t`;
  expect(await query(older.url, text, [role])).toEqual([
    { update: false, delete: false, truncate: false },
    { update: true, delete: true, truncate: true },
  ]);
  await query(older.url, `DROP OWNED BY ${role}; DROP ROLE ${role}`);
  await older.drop();
});
