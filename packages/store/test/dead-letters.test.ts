import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { type CustomerEntry, foldEntries, toReceipt } from '@opm/core';
import { createTestDatabase, isAwaited, type TestDatabase, waitFor } from '@opm/testkit';
import pg from 'pg';
import { createStore, type LetterPlace, type Store } from '../src/index.js';

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
  expect(await listed({ throughId: '2' })).toEqual(['b', 'a']);
  expect(await listed({ deadLetterId: '3', throughId: '2' })).toEqual([]);
  expect(await listed({ deadLetterId: '1', projectId: 2 })).toEqual([]);
  expect(await store.deadLetters.count({ sqlState: '22' })).toEqual(
    expect.arrayContaining([
      {
        projectId: 1,
        sqlState: '22021',
        count: 1,
        first: new Date(T0 / 1_000),
        last: new Date(T0 / 1_000),
        newestId: '1',
      },
      {
        projectId: 2,
        sqlState: '22001',
        count: 1,
        first: new Date(T0 / 1_000),
        last: new Date(T0 / 1_000),
        newestId: '2',
      },
    ]),
  );
});

test('discarding resolves only the letters that match the filter', async () => {
  await add('a');
  await add('b', { projectId: 2 });
  expect(await store.deadLetters.discard({ projectId: 2 })).toBe(1);
  expect(await listed()).toEqual(['a']);
  expect(await store.deadLetters.discard({ projectId: 2 })).toBe(0);
});

test('any number of letters is discarded, but none that comes meanwhile', async () => {
  const entries = Array.from({ length: 2_000 }, (_, i) => entryOf(`c${i}`, T0 + i));
  await store.deadLetters.add(entries.map((entry) => ({ projectId: 1, entry, payload: entry, error: 'refused' })));
  await client.query('BEGIN; SELECT FROM dead_letters WHERE id = 1 FOR UPDATE');
  const discarding = store.deadLetters.discard({});
  await untilBlocked();
  await add('later');
  await client.query('COMMIT');
  expect(await discarding).toBe(2_000);
  expect(await listed()).toEqual(['later']);
});

const refusedOf = async (customerId: string, version?: number) =>
  (await store.deadLetters.findRefused(1, [{ customerId, version }]))[0];

test('a letter that was replayed or discarded keeps neither payload nor error, but receipt, field and request ids', async () => {
  const requestIds = { idempotencyKey: 'order-1', requestId: 'import-42' };
  const entry: CustomerEntry = { customerId: 'a', version: T0, fields: { email: 'jane@example.com', ip: 'secret' } };
  const error = 'value "secret" in column "ip"';
  await store.deadLetters.add([{ projectId: 1, entry, requestIds, payload: entry, error, sqlState: '22001' }]);
  await add('b');
  const letter = {
    ...{ customerId: 'a', receipt: toReceipt(entry), sqlState: '22001', field: 'ip', isReadable: true },
    requestIds,
    refusedAt: expect.any(Date),
  };
  expect(await refusedOf('a')).toEqual([{ ...letter, state: 'refused' }]);
  await store.deadLetters.take(['1'], async () => {});
  await store.deadLetters.discard({ customerId: 'b' });

  expect(await refusedOf('a')).toEqual([{ ...letter, state: 'replayed' }]);
  expect(await refusedOf('a', T0)).toEqual([{ ...letter, state: 'replayed' }]);
  expect(await refusedOf('b', T0)).toMatchObject([{ customerId: 'b', state: 'discarded', sqlState: '22021' }]);
  expect(await refusedOf('b', T0 + 1)).toEqual([]);
  const { rows } = await client.query('SELECT * FROM dead_letters');
  expect(JSON.stringify(rows)).not.toMatch(/secret|jane/);
  // Operators see open letters only.
  expect([await listed(), await store.deadLetters.count({}), await store.deadLetters.find('1')]).toEqual([
    ...[[], [], undefined],
  ]);
  expect(await store.deadLetters.page({}, { afterId: '0', throughId: '9', limit: 9 })).toEqual([]);
});

test('an entry that is rejected again after its letter was replayed or discarded has one letter, an open one, and is not new', async () => {
  for (const resolve of [() => store.deadLetters.take(['1'], async () => {}), () => store.deadLetters.discard({})]) {
    await client.query('TRUNCATE dead_letters RESTART IDENTITY');
    await add('a', { error: 'first' });
    await resolve();
    expect(await add('a', { error: 'second', sqlState: '23514' })).toEqual([]);
    const two = [entryOf('b', T0 + 1), entryOf('a', T0)]; // the job of the second one ran twice
    const letters = two.map((entry) => ({ projectId: 1, entry, payload: entry, error: 'third' }));
    expect(await store.deadLetters.add(letters)).toEqual([letters[0]]);
    await client.query("DELETE FROM dead_letters WHERE customer_id = 'b'");
    expect((await client.query('SELECT FROM dead_letters')).rowCount).toBe(1);
    expect(await store.deadLetters.list({}, { limit: 9 })).toMatchObject([{ error: 'second', sqlState: '23514' }]);
    expect(await refusedOf('a', T0)).toMatchObject([{ state: 'refused', sqlState: '23514' }]);
  }
});

test('a group has the times at which its first and last entry were received, also after a replay that failed', async () => {
  await add('a', { version: T0 + 3_000_000 });
  await add('b', { version: T0 });
  const timesOf = async () => (await store.deadLetters.count({})).map(({ first, last }) => [first, last]);
  const times = [[new Date(T0 / 1_000), new Date(T0 / 1_000 + 3_000)]];
  expect(await timesOf()).toEqual(times);
  await store.deadLetters.take(['1', '2'], async () => {});
  await add('a', { version: T0 + 3_000_000 });
  await add('b', { version: T0 });
  expect(await timesOf()).toEqual(times);
});

test('replayed letters count as such until their entries are rejected again', async () => {
  for (const customerId of ['a', 'b', 'c', 'earlier']) await add(customerId);
  await add('other', { projectId: 2 });
  await store.deadLetters.take(['4'], async () => {});
  const since = await store.now();
  await store.deadLetters.take(['1', '2', '3', '5'], async () => {});
  const countReplayed = () =>
    store.deadLetters.countReplayed({ projectId: 1, error: 'refused', throughId: '3' }, since);
  expect(await countReplayed()).toBe(3);
  await add('b');
  await add('new');
  expect(await countReplayed()).toBe(2);
});

test('letters that hold a whole job, or an id that no column can hold, are deleted, and no partner sees them', async () => {
  const entry = entryOf('x'.repeat(9_000), T0);
  await store.deadLetters.add([
    { payload: { odd: 1 }, error: 'job data is not a chunk' },
    { projectId: 1, entry, payload: entry, error: 'too long', sqlState: '54000' },
  ]);
  expect(await list(1)).toEqual([]);
  expect(await store.deadLetters.discard({})).toBe(2);
  expect((await client.query('SELECT FROM dead_letters')).rowCount).toBe(0);
});

const list = async (
  projectId: number,
  { limit = 100, before = undefined as LetterPlace | undefined, since = undefined as Date | undefined } = {},
) => store.deadLetters.listRefused(projectId, { limit, before, since });

test('pages of refused entries have every letter once, also if letters come, are resolved and are purged meanwhile', async () => {
  const ids = Array.from({ length: 100 }, (_, i) => `c${i}`);
  // Ten letters at a time have the same time.
  for (let i = 0; i < 100; i += 10) {
    const entries = ids.slice(i, i + 10).map((id) => entryOf(id, T0));
    await store.deadLetters.add(entries.map((entry) => ({ projectId: 1, entry, payload: entry, error: 'refused' })));
  }
  await add('other', { projectId: 2 });
  const seen: string[] = [];
  let before: LetterPlace | undefined;
  for (let page = 0; page === 0 || before; page++) {
    const found = await list(1, { limit: 7, before });
    seen.push(...found.map(({ letter }) => letter.customerId));
    before = found.length === 7 ? found.at(-1)?.place : undefined;
    await add(`new ${page}`);
    // The newest letters, which this page has shown.
    if (page % 3 === 0) await store.deadLetters.discard({ customerId: seen.at(-1) });
    if (page % 3 === 1) await client.query('DELETE FROM dead_letters WHERE customer_id = $1', [seen.at(-1)]);
    if (page % 3 === 2) await store.deadLetters.discard({ customerId: ids[page] });
  }
  expect(seen).toEqual(ids.toReversed());
  expect((await list(2)).map(({ letter }) => letter.customerId)).toEqual(['other']);
  expect(await list(3)).toEqual([]);
});

test('since selects by the time at which the letter was stored', async () => {
  await add('old');
  await client.query(`UPDATE dead_letters SET created_at = '2026-11-20T12:00:00.000001Z'`);
  await add('new');
  const since = async (time: string) =>
    (await list(1, { since: new Date(time) })).map(({ letter }) => letter.customerId);
  expect(await since('2026-11-20T12:00:00Z')).toEqual(['new', 'old']);
  expect(await since('2026-11-20T12:00:01Z')).toEqual(['new']);
  expect(await since('0000-01-01')).toEqual(['new', 'old']);
  expect(await since('9999-12-31')).toEqual([]);
});

test('at most 20 letters of a customer are found, the newest version first', async () => {
  const entries = Array.from({ length: 60 }, (_, i) => entryOf('a', T0 + i));
  await store.deadLetters.add(entries.map((entry) => ({ projectId: 1, entry, payload: entry, error: 'refused' })));
  const asked = [{ customerId: 'b' }, { customerId: 'a' }, { customerId: 'a', version: T0 + 3 }];
  const [none, newest, one] = await store.deadLetters.findRefused(1, asked);
  expect([none?.length, newest?.length, one?.length]).toEqual([0, 20, 1]);
  expect(newest?.map(({ receipt }) => receipt)).toEqual(entries.toReversed().slice(0, 20).map(toReceipt));
  expect(await store.deadLetters.findRefused(2, asked)).toEqual([[], [], []]);
});

test('letters are purged 30 days after they were replayed or discarded, open ones never', async () => {
  for (const customerId of ['open', 'recent', 'old']) await add(customerId);
  await client.query(`UPDATE dead_letters SET created_at = now() - interval '90 days'`);
  await store.deadLetters.take(['2'], async () => {});
  await store.deadLetters.discard({ customerId: 'old' });
  const resolved = (customerId: string, time: string) =>
    client.query(`UPDATE dead_letters SET resolved_at = now() - $2::interval WHERE customer_id = $1`, [
      customerId,
      time,
    ]);
  await resolved('recent', '29 days 23 hours');
  await resolved('old', '30 days 1 hour');
  expect(await store.deadLetters.purge()).toBe(1);
  expect((await list(1)).map(({ letter }) => letter.customerId)).toEqual(['recent', 'open']);

  const entries = Array.from({ length: 2_000 }, (_, i) => entryOf(`c${i}`, T0 + i));
  await store.deadLetters.add(entries.map((entry) => ({ projectId: 1, entry, payload: entry, error: 'refused' })));
  await store.deadLetters.discard({});
  await client.query(`UPDATE dead_letters SET resolved_at = now() - interval '31 days'`);
  expect(await store.deadLetters.purge()).toBe(2_002);
});

test('an erasure also deletes the letters that were replayed or discarded, up to its version', async () => {
  for (const version of [T0, T0 + 1, T0 + 3]) await add('a', { version });
  await store.deadLetters.take(['1'], async () => {});
  await store.deadLetters.discard({});
  await upsert({ customerId: 'a', version: T0 + 2, erase: true });
  expect((await list(1)).map(({ letter }) => letter.receipt)).toEqual([toReceipt(entryOf('a', T0 + 3))]);
});

describe('beside a worker and a CLI of the release before,', () => {
  /** The statements of that release. */
  const addAsBefore = async (entry: CustomerEntry, error: string) => {
    const values = [1, entry.customerId, entry.version, JSON.stringify(entry), error, '22021'];
    await client.query(
      `INSERT INTO dead_letters (project_id, customer_id, version, payload, error, sql_state)
       SELECT * FROM unnest($1::int[], $2::text[], $3::bigint[], $4::json[], $5::text[], $6::text[])
       ON CONFLICT DO NOTHING`,
      values.map((value) => [value]),
    );
    await client.query(
      `DELETE FROM dead_letters AS letter
       USING erasures AS erased, unnest($1::int[], $2::text[], $3::bigint[]) AS given (project_id, customer_id, version)
       WHERE letter.project_id = given.project_id AND letter.customer_id = given.customer_id
         AND letter.version = given.version AND erased.project_id = given.project_id
         AND erased.customer_id = given.customer_id AND erased.version >= given.version`,
      values.slice(0, 3).map((value) => [value]),
    );
  };
  const takeAsBefore = (id: number) =>
    client.query('DELETE FROM dead_letters WHERE id = ANY($1::bigint[]) RETURNING id', [[id]]);

  test('a letter that it stored has a receipt, while it is open and later', async () => {
    const entry: CustomerEntry = { customerId: 'a', version: T0, fields: { email: 'jane\0', ip: '::1' } };
    const erasure: CustomerEntry = { customerId: 'b', version: T0, erase: true };
    for (const one of [entry, erasure]) await addAsBefore(one, 'null value in column "ip"');
    await addAsBefore(entry, 'again');
    for (const resolve of [async () => 0, () => store.deadLetters.take(['1'], async () => {})]) {
      await resolve();
      expect(await refusedOf('a', T0)).toMatchObject([{ receipt: toReceipt(entry), field: 'ip', isReadable: true }]);
      expect(await refusedOf('b', T0)).toMatchObject([{ receipt: toReceipt(erasure), isReadable: true }]);
    }
    expect(await store.deadLetters.discard({})).toBe(1);
    expect((await list(1)).map(({ letter: { receipt, state } }) => [receipt, state])).toEqual([
      [toReceipt(erasure), 'discarded'],
      [toReceipt(entry), 'replayed'],
    ]);
  });

  test('an entry that was replayed and that it rejects again becomes a letter again, also while it is being replayed', async () => {
    await add('a', { error: 'first' });
    await store.deadLetters.take(['1'], async () => {});
    await addAsBefore(entryOf('a', T0), 'second');
    expect(await store.deadLetters.list({}, { limit: 9 })).toMatchObject([{ error: 'second' }]);
    expect(await refusedOf('a', T0)).toMatchObject([{ state: 'refused' }]);

    const [open] = await store.deadLetters.list({}, { limit: 1 });
    let again: Promise<unknown> | undefined;
    await store.deadLetters.take([open?.deadLetterId ?? '0'], async () => {
      again = addAsBefore(entryOf('a', T0), 'third');
      await untilWaiting();
    });
    await again;
    expect(await store.deadLetters.list({}, { limit: 9 })).toMatchObject([{ error: 'third' }]);
    expect(await takeAsBefore(Number((await store.deadLetters.list({}, { limit: 1 }))[0]?.deadLetterId))).toMatchObject(
      {
        rowCount: 1,
      },
    );
    await add('a', { error: 'fourth' });
    expect((await client.query('SELECT error FROM dead_letters')).rows).toEqual([{ error: 'fourth' }]);
  });

  test('a letter whose data this release cannot read is shown as such, also after the discard', async () => {
    await client.query(
      `INSERT INTO dead_letters (project_id, customer_id, version, payload, error) VALUES (1, 'a', ${T0}, '[1]', 'x')`,
    );
    expect(await refusedOf('a')).toMatchObject([{ isReadable: false, receipt: expect.stringMatching(/^\w{10,14}$/) }]);
    expect(await store.deadLetters.discard({})).toBe(1);
    expect(await refusedOf('a')).toMatchObject([{ isReadable: false, state: 'discarded' }]);
  });
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

/** Resolves when a statement waits for the end of another transaction. */
async function untilWaiting(): Promise<void> {
  const other = new pg.Client({ connectionString: database.url }); // the test's own may be the one that waits
  await other.connect();
  const waiting = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`;
  while ((await other.query(waiting)).rowCount === 0);
  await other.end();
}

test('an entry that is rejected again while its letter is being taken becomes a letter again', async () => {
  await add('a', { error: 'first' });
  let again: Promise<unknown> | undefined;
  await store.deadLetters.take(['1'], async () => {
    again = add('a', { error: 'second' });
    await untilWaiting();
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

test('an entry that is rejected after its customer was erased gets no letter and is not new, a newer entry does', async () => {
  await upsert({ customerId: 'a', version: T0 + 1, erase: true });
  expect(await add('a', { version: T0 })).toEqual([]);
  expect(await add('a', { version: T0 + 2 })).toHaveLength(1);
  await add('a', { version: T0, projectId: 2 });
  const letters = await store.deadLetters.list({}, { limit: 10 });
  expect(letters.map(({ projectId, version }) => [projectId, Number(version)])).toEqual([
    [2, T0],
    [1, T0 + 2],
  ]);
});

/** Resolves when a statement waits for a lock of the test's own session. */
const untilBlocked = () => waitFor(() => isAwaited(client), { description: 'a statement that waits' });

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

const noteFinished = (before = Date.now() * 1_000) => store.mark.noteFinished(before);

test('no tombstone is purged while an older entry may be queued, or be repeated with its idempotency key', async () => {
  const day = 86_400_000_000;
  await upsert({ customerId: 'a', version: T0, erase: true });
  for (const [finishedBefore, purged] of [
    [0, 0],
    [T0, 0],
    [T0 + day, 0],
    [T0 + day + 1, 1],
  ] as const) {
    await noteFinished(finishedBefore);
    expect([finishedBefore, await store.customers.purgeTombstones(new Date())]).toEqual([finishedBefore, purged]);
  }
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
  await noteFinished();
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
  await noteFinished();

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
  await noteFinished();
  expect(await store.customers.purgeTombstones(new Date(T0 / 1_000 + 1))).toBe(12_000);
  expect((await client.query('SELECT FROM erasures')).rowCount).toBe(0);
});
