import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { type CustomerEntry, foldEntries, isLive } from '@opm/core';
import { createTestDatabase, type TestDatabase } from '@opm/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { createStore, failureKindOf, type Store } from '../src/index.js';

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
beforeEach(() => client.query('TRUNCATE customers'));

const T0 = 1_764_000_000_000_000; // a version is a clock in microseconds
type Row = Record<string, string | null>;

const toRows = (projectId: number, entries: CustomerEntry[]) =>
  [...foldEntries(entries)].map(([customerId, state]) => ({ projectId, customerId, state }));

const readRows = async (projectId: number): Promise<Row[]> =>
  (
    await client.query<Row>(
      `SELECT customer_id, email, phone, first_name, last_name, ip, email_version, phone_version, first_name_version,
         last_name_version, ip_version, erased_version,
         (extract(epoch FROM created_at) * 1000000)::bigint AS first_version,
         (extract(epoch FROM updated_at) * 1000000)::bigint AS last_version
       FROM customers WHERE project_id = $1 ORDER BY customer_id`,
      [projectId],
    )
  ).rows;

/** Asks between two other queries, to check that their results are not mixed up. */
const existed = async (projectId: number, customerId: string, version: number) => {
  const stranger = { projectId: projectId + 1_000_000, customerId, version };
  const places = await store.customers.findExisting([stranger, { projectId, customerId, version }, stranger]);
  expect([...places].filter((place) => place !== 1)).toEqual([]);
  return places.has(1);
};

/** The rows that merging in memory results in. */
const expectedRows = (entries: CustomerEntry[]): Row[] =>
  [...foldEntries(entries)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([customer_id, { fields, versions, erasedVersion, firstVersion, lastVersion }]) => ({
      customer_id,
      email: fields.email ?? null,
      phone: fields.phone ?? null,
      first_name: fields.firstName ?? null,
      last_name: fields.lastName ?? null,
      ip: fields.ip ?? null,
      email_version: String(versions.email),
      phone_version: String(versions.phone),
      first_name_version: String(versions.firstName),
      last_name_version: String(versions.lastName),
      ip_version: String(versions.ip),
      erased_version: String(erasedVersion),
      first_version: String(firstVersion),
      last_version: String(lastVersion),
    }));

test('in any order, batches and number of repeats, upserted entries give the rows of merging in memory', async () => {
  const text = fc.oneof(
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 }),
    fc.string({ unit: fc.constantFrom('"', '\\', '{', '}', ',', ' ', '\n', 'n', 'NULL'), minLength: 1 }),
  );
  const entry = fc
    .record({
      customerId: fc.constantFrom('7519', 'ß', "o'neill", 'a'),
      fields: fc.oneof(
        {
          weight: 5,
          arbitrary: fc.record(
            { email: text, phone: text, firstName: text, lastName: text, ip: text },
            { requiredKeys: [] },
          ),
        },
        { weight: 1, arbitrary: fc.constant('erase' as const) },
      ),
    })
    .map(({ customerId, fields }) => ({
      customerId,
      ...(fields === 'erase' ? { erase: true as const } : { fields: { phone: '+1', ...fields } }),
    }));
  const arrivals = fc.array(entry, { minLength: 1, maxLength: 12 }).chain((given) => {
    const entries = given.map((one, i) => ({ ...one, version: T0 + i }));
    return fc.record({
      entries: fc.constant(entries),
      order: fc.shuffledSubarray([...entries, ...entries], { minLength: entries.length * 2 }),
      batchSize: fc.integer({ min: 1, max: 24 }),
      way: fc.constantFrom<'upsert' | 'upsertEach'>('upsert', 'upsertEach'),
    });
  });
  let projectId = 0;
  await fc.assert(
    fc.asyncProperty(arrivals, async ({ entries, order, batchSize, way }) => {
      projectId++;
      for (let i = 0; i < order.length; i += batchSize) {
        await store.customers[way](toRows(projectId, order.slice(i, i + batchSize)));
      }
      expect(await readRows(projectId)).toEqual(expectedRows(entries));
      for (const [customerId, state] of foldEntries(entries)) {
        expect((await store.customers.find(projectId, customerId)) !== undefined).toBe(isLive(state));
        expect(await existed(projectId, customerId, T0 + 1_000)).toBe(isLive(state));
      }
    }),
    { numRuns: 150 },
  );
});

const rowsOf = (...customerIds: string[]) =>
  toRows(
    1,
    customerIds.map((customerId, i) => ({ customerId, version: T0 + i, fields: { email: 'a@example.com' } })),
  );
const readIds = async () => (await readRows(1)).map(({ customer_id }) => customer_id);

test('upsertEach returns the rejected rows with the reason, and writes all others', async () => {
  const tooLong = Array.from({ length: 9_000 }, (_, i) => String.fromCodePoint(0x4e00 + ((i * 7919) % 20_000))).join(
    '',
  );
  const rows = rowsOf('a', 'b\0', 'c', tooLong, "d'); DROP TABLE customers; --", 'e');
  const { failed, untried } = await store.customers.upsertEach(rows);
  expect(failed.map(({ row, error }) => [row.customerId, error.kind, error.sqlState])).toEqual([
    ['b\0', 'rejected', '22P05'],
    [tooLong, 'rejected', '54000'],
  ]);
  expect(untried).toEqual([]);
  expect(await readIds()).toEqual(['a', 'c', "d'); DROP TABLE customers; --", 'e']);
});

test('upsertEach stops at a locked row, so that the rows before it are not locked for long', async () => {
  await store.customers.upsert(rowsOf('b'));
  await client.query("BEGIN; UPDATE customers SET ip = '::1'");
  const newer = rowsOf('a', 'b', 'c', 'd');
  const { failed, untried } = await store.customers.upsertEach(newer);
  expect(failed.map(({ row, error }) => [row.customerId, error.kind])).toEqual([['b', 'blocked']]);
  expect(untried.map(({ customerId }) => customerId)).toEqual(['c', 'd']);
  await client.query('ROLLBACK');
  expect(await readIds()).toEqual(['a', 'b']);
});

test('upsertEach stops after half a second, so that the written rows are not locked for long', async () => {
  await client.query(`
    CREATE FUNCTION take_half() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END';
    CREATE TRIGGER take_half BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION take_half()`);
  const { failed, untried } = await store.customers.upsertEach(rowsOf('a', 'b', 'c', 'd', 'e'));
  await client.query('DROP TRIGGER take_half ON customers');
  expect(failed).toEqual([]);
  const ids = await readIds();
  expect(ids.length).toBeLessThan(5);
  expect([...ids, ...untried.map(({ customerId }) => customerId)]).toEqual(['a', 'b', 'c', 'd', 'e']);
});

test('two workers that write the same customers at the same time neither deadlock nor lose a field', async () => {
  const ids = Array.from({ length: 300 }, (_, i) => `customer ${i}`);
  const batches = Array.from({ length: 12 }, (_, batch) =>
    ids
      .toSorted(() => (batch % 2 ? 1 : -1))
      .map((customerId, i): CustomerEntry => {
        return {
          customerId,
          version: T0 + batch * 1_000 + i,
          fields: batch % 2 ? { phone: `+${batch}` } : { email: `${batch}@example.com` },
        };
      }),
  );
  await Promise.all(batches.map((entries) => store.customers.upsert(toRows(1, entries))));
  expect(await readRows(1)).toEqual(expectedRows(batches.flat()));
});

test('an update of a stored customer is a HOT update', async () => {
  const entries = Array.from({ length: 20 }, (_, i) => ({
    customerId: String(i),
    version: T0 + i,
    fields: { email: 'a@example.com' },
  }));
  await store.customers.upsert(toRows(1, entries));
  await store.customers.upsert(
    toRows(
      1,
      entries.map((entry) => ({ ...entry, version: entry.version + 1_000, fields: { email: 'b@example.com' } })),
    ),
  );
  const { rows } = await client.query('SELECT reloptions FROM pg_class WHERE relname = $1', ['customers']);
  expect(rows[0].reloptions).toEqual(['fillfactor=80']);
  // ctid keeps its page: the new version of each row found room beside the old one.
  const { rows: pages } = await client.query('SELECT DISTINCT (ctid::text::point)[0] AS page FROM customers');
  expect(pages).toEqual([{ page: 0 }]);
});

test('an error of PostgreSQL is a StoreError with its SQLSTATE', async () => {
  const rows = toRows(1, [{ customerId: 'a', version: T0, fields: { email: 'a\0b' } }]);
  await expect(store.customers.upsert(rows)).rejects.toMatchObject({ name: 'StoreError', sqlState: '22021' });
  const tooLarge = toRows(2 ** 40, [{ customerId: 'a', version: T0, fields: { email: 'a' } }]);
  await expect(store.customers.upsert(tooLarge)).rejects.toMatchObject({ name: 'StoreError' });
});

test('a statement that PostgreSQL cancels after its timeout is of the kind blocked, not an outage', async () => {
  await client.query(`
    CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END';
    CREATE TRIGGER take_long BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION take_long()`);
  const timeouts = { statementTimeoutMs: 50, answerTimeoutMs: 5_000 };
  const impatient = createStore({ databaseUrl: database.url, ...timeouts, applicationName: 'test' });
  for (let i = 0; i < 10; i++) {
    const rows = toRows(1, [{ customerId: 'a', version: T0, fields: { email: 'a@example.com' } }]);
    const error = await impatient.customers.upsert(rows).catch((reason) => reason);
    expect(error).toMatchObject({ name: 'StoreError', sqlState: '57014' });
    expect(failureKindOf(error)).toBe('blocked');
  }
  await impatient.close();
  await client.query('DROP FUNCTION take_long CASCADE');
});

test('a customer existed before a version only if an older entry made the row', async () => {
  const at = (n: number) => T0 + n;
  const upsert = (...entries: CustomerEntry[]) => store.customers.upsert(toRows(1, entries));
  const existedAt = (customerId: string, n: number) => existed(1, customerId, at(n));
  await upsert({ customerId: 'new', version: at(10), fields: { email: 'a@example.com' } });
  expect([await existedAt('new', 9), await existedAt('new', 11)]).toEqual([false, true]);
  await upsert({ customerId: 'new', version: at(20), fields: { email: 'b@example.com' } });
  expect(await existedAt('new', 15)).toBe(true);
  await upsert({ customerId: 'new', version: at(30), erase: true });
  expect(await existedAt('new', 31)).toBe(false);
  await upsert({ customerId: 'new', version: at(40), fields: { phone: '+1' } });
  expect(await existedAt('new', 41)).toBe(true);
});

test('if a customer was ever erased, a row newer than the asked version counts as existing', async () => {
  const upsert = (version: number, fields?: CustomerEntry['fields']) =>
    store.customers.upsert(toRows(2, [{ customerId: 'back', version, ...(fields ? { fields } : { erase: true }) }]));
  await upsert(T0 + 10);
  await upsert(T0 + 20, { phone: '+1' });
  await upsert(T0 + 40, { phone: '+2' }); // the row no longer shows that the customer was re-created at 20
  expect(await existed(2, 'back', T0 + 30)).toBe(true);
  await upsert(T0 + 60);
  expect([await existed(2, 'back', T0 + 50), await existed(2, 'back', T0 + 61)]).toEqual([true, false]);
});
