import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Version } from '@opm/core';
import { BACKENDS, type Backend, createBackend, isAwaited, query, waitFor, withRedis } from '@opm/testkit';
import pg from 'pg';
import type { Admitted } from '../src/admission.js';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { QueueBackend } from '../src/queue-store.js';
import { toHashTag } from '../src/redis/redis-store.js';

type Customer = { customerId: string; erase?: true };

const of = <T extends { customerId: string }>(projectId: number, ...some: T[]): (T & { projectId: number })[] =>
  some.map((one) => ({ ...one, projectId }));

describe.each(BACKENDS)('admission on %s:', (_, createBackend) => {
  let backend: Backend;
  let one: QueueBackend;
  let other: QueueBackend;

  beforeAll(async () => {
    backend = await createBackend();
    const options = { signal: new AbortController().signal, onError: () => {} };
    one = await connectQueueBackend({ ...backend, shards: 3 }, 'producer', options);
    other = await connectQueueBackend({ ...backend, shards: 3 }, 'worker', options);
  });
  afterAll(async () => {
    await one.close();
    await other.close();
    await backend.drop();
  });

  const present = (version: number) => ({ version, erased: false });
  const admitOn = async ({ admission }: QueueBackend, projectId: number, ...customers: Customer[]) =>
    (await admission.admit(0, of(projectId, ...customers))).admitted;
  const admit = (projectId: number, ...customerIds: string[]) =>
    admitOn(one, projectId, ...customerIds.map((customerId) => ({ customerId })));

  const setMark = (version: number) => query(backend.databaseUrl, 'UPDATE high_water_mark SET version = $1', [version]);
  /** Replaces the shard's stored version, or removes it. */
  const forgetVersion = async (instead?: number) => {
    if (!backend.redisUrl) {
      await query(backend.databaseUrl, 'DELETE FROM admission.shards WHERE shard = 0');
      if (instead) await query(backend.databaseUrl, 'INSERT INTO admission.shards VALUES (0, $1)', [instead]);
      return;
    }
    const key = `${toHashTag(backend.prefix, 0, 3)}:version`;
    await withRedis(backend.redisUrl, async (redis) => (instead ? redis.set(key, instead) : redis.del(key)));
  };

  test('versions follow the clock and strictly increase, across ingresses', async () => {
    const before = Date.now() * 1000;
    const calls = Array.from({ length: 40 }, (_, i) =>
      admitOn(i % 2 ? one : other, 1, { customerId: `v${i}` }, { customerId: `w${i}` }),
    );
    const versions = (await Promise.all(calls)).flat().map(({ version }) => version);
    expect(new Set(versions).size).toBe(80);
    expect(Math.min(...versions)).toBeGreaterThan(before - 1_000_000);
    expect(Math.max(...versions)).toBeLessThan(Date.now() * 1000 + 1_000_000);
    const [next] = await admit(1, 'later');
    expect(next?.version).toBeGreaterThan(Math.max(...versions));
  });

  test('an id with an unpaired surrogate, which a foreign job may have, is claimed and settled as its UTF-8 form', async () => {
    const [admitted] = await admit(61, '\ud83d');
    const find = () => one.admission.readClaims(0, 61, [{ customerId: '\ufffd' }]);
    expect(await find()).toEqual([present(admitted?.version ?? 0)]);
    await other.admission.settle(0, [admitted as Admitted]);
    expect(await find()).toEqual([undefined]);
  });

  test('versions start above the high-water mark if the shard has none, or if a process admits to it for the first time', async () => {
    const [before] = await admit(1, 'before');
    const mark = (before?.version ?? 0) + 3_600_000_000;
    await setMark(mark);
    expect((await admit(1, 'running'))[0]?.version).toBeLessThan(mark);
    await forgetVersion();
    const [lost] = await admit(1, 'lost');
    expect(lost?.version).toBeGreaterThan(mark);

    await setMark(mark + 3_600_000_000);
    const options = { signal: new AbortController().signal, onError: () => {} };
    const starting = await connectQueueBackend({ ...backend, shards: 3 }, 'producer', options);
    const [first, second] = await admitOn(starting, 1, { customerId: 'c' }, { customerId: 'd' });
    expect(first?.version).toBeGreaterThan(mark + 3_600_000_000);
    expect(second?.version).toBe((first?.version ?? 0) + 1);
    await starting.close();
    expect((await admit(1, 'running'))[0]?.version).toBeGreaterThan(second?.version ?? 0);
    await setMark(0);
  });

  test('a process assigns increasing versions even if the store falls back to an older one', async () => {
    await forgetVersion(Date.now() * 1_000 + 3_600_000_000);
    const [before] = await admit(1, 'before');
    await forgetVersion(1);
    expect((await admit(1, 'after'))[0]?.version).toBeGreaterThan(before?.version ?? 0);
  });

  test('admission returns the previous claim, also within one call, and never that of another project', async () => {
    const [a1, b1, a2] = await admit(2, 'a', 'b', 'a');
    expect([a1?.previous, b1?.previous, a2?.previous]).toEqual([undefined, undefined, present(a1?.version ?? 0)]);
    const [a3] = await admitOn(other, 2, { customerId: 'a', erase: true });
    expect(a3?.previous).toEqual(present(a2?.version ?? 0));
    const [a4] = await admit(2, 'a');
    expect(a4?.previous).toEqual({ version: a3?.version, erased: true });
    expect((await admit(3, 'a'))[0]?.previous).toBeUndefined();
  });

  test('of many simultaneous first entries, exactly one finds no claim', async () => {
    const calls = Array.from({ length: 60 }, (_, i) => admitOn(i % 2 ? one : other, 4, { customerId: 'first' }));
    const firsts = (await Promise.all(calls)).flat().filter(({ previous }) => !previous);
    expect(firsts).toHaveLength(1);
  });

  test('settling drops the claim of a persisted entry, and keeps a claim of a newer entry', async () => {
    const [old] = await admit(5, 'a');
    const [newer, b] = await admit(5, 'a', 'b');
    await other.admission.settle(0, [
      { projectId: 5, customerId: 'a', version: old?.version ?? 0 },
      { projectId: 5, customerId: 'b', version: b?.version ?? 0 },
    ]);
    const [a, again] = await admit(5, 'a', 'b');
    expect([a?.previous, again?.previous]).toEqual([present(newer?.version ?? 0), undefined]);
  });

  test('an entry settles no claim newer than its own, even if it is settled together with newer entries', async () => {
    const [claimed] = await admit(13, 'a');
    const version = claimed?.version ?? 0;
    const imported = ['a', 'b', 'c'].map((customerId, i) => ({ customerId, version: version - 1 + i }));
    await other.admission.settle(0, of(13, ...imported));
    expect((await admit(13, 'a'))[0]?.previous).toEqual(present(version));
  });

  test('an entry that was admitted again settles its new claim', async () => {
    const [older, newer] = [await admit(16, 'a', 'b'), await admit(16, 'a', 'b')];
    const again = ['a', 'b'].map((customerId, i) => ({
      ...{ projectId: 16, customerId, version: older[i]?.version ?? 0 },
      ...(customerId === 'a' && { claim: newer[i]?.version ?? 0 }),
    }));
    await other.admission.settle(0, again);
    const ids = [{ customerId: 'a' }, { customerId: 'b' }];
    expect(await one.admission.readClaims(0, 16, ids)).toEqual([undefined, present(newer[1]?.version ?? 0)]);
  });

  test('projects in one call do not affect each other, even if their customers have the same ids', async () => {
    const both = [...of(17, { customerId: 'a' }), ...of(18, { customerId: 'a' })];
    const first = (await one.admission.admit(0, both)).admitted;
    expect(first.map(({ projectId, previous }) => [projectId, previous])).toEqual([
      [17, undefined],
      [18, undefined],
    ]);
    const second = (await one.admission.admit(0, both.toReversed())).admitted;
    expect(second.map(({ previous }) => previous)).toEqual([
      present(first[1]?.version ?? 0),
      present(first[0]?.version ?? 0),
    ]);
    await one.admission.release(0, second.slice(0, 1));
    await one.admission.settle(0, second.slice(1));
    const claims = [17, 18].map((id) => one.admission.readClaims(0, id, [{ customerId: 'a' }]));
    expect((await Promise.all(claims)).flat()).toEqual([undefined, present(first[1]?.version ?? 0)]);
  });

  test('one call settles any number of claims', async () => {
    const ids = Array.from({ length: 2_500 }, (_, i) => `many ${i}`);
    const admitted = await admit(8, ...ids);
    await other.admission.settle(0, admitted);
    expect((await admit(8, ...ids)).filter(({ previous }) => previous)).toEqual([]);
  });

  test('releasing removes a claim, restores the one that it replaced, and keeps newer claims', async () => {
    const kept = await admit(6, 'kept');
    const failed = await admit(6, 'kept', 'new', 'new', 'raced');
    const [raced] = await admitOn(other, 6, { customerId: 'raced' });
    await one.admission.release(0, failed);
    const after = await admit(6, 'kept', 'new', 'raced');
    expect(after.map(({ previous }) => previous)).toEqual([
      present(kept[0]?.version ?? 0),
      undefined,
      present(raced?.version ?? 0),
    ]);
  });

  test('the backlog of a shard counts admitted entries until they are settled or released, and never falls below zero', async () => {
    const add = (count: number, projectId = 9, shard = 1) =>
      one.admission.admit(shard, of(projectId, ...Array.from({ length: count }, (_, i) => ({ customerId: `c ${i}` }))));
    const countWaiting = () => other.admission.countBacklog(1);
    const first = await add(3);
    const second = await add(2);
    const foreign = await add(5, 10);
    expect(await countWaiting()).toBe(10);
    expect(await other.admission.countBacklog(2)).toBe(0);

    await one.admission.release(1, second.admitted);
    expect(await countWaiting()).toBe(8);
    const again = of(9, ...Array.from({ length: 6 }, (_, i) => ({ customerId: `${i}`, version: 1 + i })));
    await one.admission.readmit(1, again);
    expect(await countWaiting()).toBe(14);
    await one.admission.withdraw(1, again);
    await other.admission.settle(1, [...first.admitted, ...foreign.admitted]);
    expect(await countWaiting()).toBe(0);
    await other.admission.settle(1, first.admitted);
    expect(await countWaiting()).toBe(0);
    await add(1);
    expect(await countWaiting()).toBe(1);
  });

  test('a project’s backlog counts one entry in 16 as 16, and settling counts down the same entries', async () => {
    const requests = Array.from({ length: 3_200 }, (_, i) => ({ projectId: 100 + (i % 5), customerId: `c ${i}` }));
    const { admitted, backlogs } = await one.admission.admit(2, requests);
    const expected = new Map<number, number>();
    for (const { projectId, version } of admitted) {
      if (version % 16 === 0) expected.set(projectId, (expected.get(projectId) ?? 0) + 16);
    }
    expect([...backlogs].sort()).toEqual([...expected].sort());
    expect([...expected.values()].reduce((sum, count) => sum + count, 0)).toBe(3_200);
    expect((await other.admission.readShardBacklog(2)).ofProjects).toEqual(expected);

    await other.admission.settle(2, admitted.slice(0, 1_600));
    await one.admission.release(2, admitted.slice(1_600));
    const { entries, ofProjects } = await other.admission.readShardBacklog(2);
    expect([entries, ...ofProjects.values()].every((count) => count === 0)).toBe(true);
  });

  test('readmitted entries count by their own versions, also in a shard that never admitted an entry', async () => {
    const again = of(9, ...Array.from({ length: 32 }, (_, i) => ({ customerId: `${i}`, version: 1_600 + i })));
    await forgetVersion();
    const before = await one.admission.countBacklog(0);
    expect(await one.admission.readmit(0, again)).toEqual(new Map([[9, 32]]));
    expect((await one.admission.countBacklog(0)) - (backend.redisUrl ? before : 0)).toBe(32);
    await one.admission.withdraw(0, again);
    expect((await admit(1, 'next'))[0]?.version).toBeGreaterThan(1_000_000);
  });

  test('the backlog can be corrected, up and down', async () => {
    await one.admission.correctBacklog(1, { entries: 7, ofProjects: new Map([[9, 48]]) });
    const { entries, ofProjects } = await other.admission.readShardBacklog(1);
    expect(ofProjects.get(9)).toBeGreaterThanOrEqual(48);
    const negated = [...ofProjects].map(([projectId, count]): [number, number] => [projectId, -count]);
    await one.admission.correctBacklog(1, { entries: -entries - 1, ofProjects: new Map(negated) });
    const left = await other.admission.readShardBacklog(1);
    expect([left.entries, ...left.ofProjects.values()].every((count) => count === 0)).toBe(true);
  });

  test('claims are returned in the order of the request', async () => {
    const [a, b] = await admitOn(one, 11, { customerId: 'a' }, { customerId: 'b', erase: true });
    const ids = ['b', 'none', 'a', 'b'].map((customerId) => ({ customerId }));
    const erased = { version: b?.version, erased: true };
    expect(await other.admission.readClaims(0, 11, ids)).toEqual([erased, undefined, present(a?.version ?? 0), erased]);
    expect(await other.admission.readClaims(0, 12, ids)).toEqual(ids.map(() => undefined));
  });

  test('an erasure stays pending until it is settled itself, even if newer entries are settled', async () => {
    const readOne = async (projectId: number) =>
      (await other.admission.readClaims(0, projectId, [{ customerId: 'a' }]))[0];
    const settleOne = (projectId: number, version = 0) =>
      other.admission.settle(0, [{ projectId, customerId: 'a', version }]);
    await admit(14, 'a');
    const [first] = await admitOn(one, 14, { customerId: 'a', erase: true });
    const [, second] = await admitOn(one, 14, { customerId: 'a' }, { customerId: 'a', erase: true });
    const [newer] = await admit(14, 'a');
    expect(await readOne(14)).toEqual(present(newer?.version ?? 0));
    for (const settled of [newer, first]) {
      await settleOne(14, settled?.version);
      expect(await readOne(14)).toEqual(present(second?.version ?? 0));
    }
    expect((await admit(14, 'a'))[0]?.previous).toBeUndefined(); // PostgreSQL has the row
    await settleOne(14, second?.version);
    const [last] = await admit(14, 'a');
    await settleOne(14, last?.version);
    expect(await readOne(14)).toBeUndefined();
  });

  test('a released or swept erasure is no longer pending, and an erasure that it replaced is pending again', async () => {
    const readOne = async (customerId: string) => (await one.admission.readClaims(0, 15, [{ customerId }]))[0];
    const settle = (...entries: Admitted[]) => other.admission.settle(0, entries);
    const erase = (customerId: string) => one.admission.admit(0, [{ projectId: 15, customerId, erase: true }]);

    const released = await erase('released');
    const newer = await admit(15, 'released');
    await one.admission.release(0, released.admitted);
    await settle(...newer);
    expect(await readOne('released')).toBeUndefined();

    const kept = await erase('kept');
    const failed = await erase('kept');
    await one.admission.release(0, failed.admitted);
    expect(await readOne('kept')).toEqual({ version: kept.admitted[0]?.version, erased: true });
    await settle(...(await admit(15, 'kept')));
    expect(await readOne('kept')).toEqual(present(kept.admitted[0]?.version ?? 0));

    const sweep = (before: Version) => Promise.all([0, 1, 2].map((shard) => one.admission.sweep(shard, before)));
    await sweep(kept.admitted[0]?.version ?? 0);
    expect(await readOne('kept')).toBeDefined();
    await sweep(Number.MAX_SAFE_INTEGER);
    expect(await readOne('kept')).toBeUndefined();
  });

  test('any text can be a customer id', async () => {
    const ids = ['{', '}', ':', '*', ' ', '😀', "';--", 'a'.repeat(255), '\\', '{}'];
    const admitted = await admit(7, ...ids);
    expect((await admit(7, ...ids)).map(({ previous }) => previous)).toEqual(
      admitted.map(({ version }) => present(version)),
    );
  });
});

test.each(BACKENDS)('on %s a sweep removes only the claims below a version', async (_, createBackend) => {
  const backend = await createBackend();
  const options = { signal: new AbortController().signal, onError: () => {} };
  const { admission, close } = await connectQueueBackend({ ...backend, shards: 1 }, 'worker', options);
  const toCustomers = (ids: string[]) => ids.map((customerId) => ({ projectId: 1, customerId }));
  const old = Array.from({ length: 2_000 }, (_, i) => `old ${i}`);

  expect(await admission.readVersion(0)).toBeUndefined();
  await admission.admit(0, toCustomers(old));
  const newest = await admission.readVersion(0);
  const { admitted } = await admission.admit(0, toCustomers(['current']));
  expect(newest).toBeLessThan(admitted[0]?.version ?? 0);
  await admission.sweep(0, admitted[0]?.version ?? 0);
  expect((await admission.readClaims(0, 1, toCustomers(['current', ...old]))).filter(Boolean)).toHaveLength(1);
  await close();
  await backend.drop();
});

test('on PostgreSQL the calls of the previous release still work', async () => {
  const backend = await createBackend(undefined);
  const admit = 'SELECT * FROM admission.admit($1, $2, $3, $4, $5, $6)';
  const [row] = await query<{ version: string }>(backend.databaseUrl, admit, [0, 1, ['a'], [false], '7 days', null]);
  const release = 'SELECT admission.release($1, $2, $3, $4, $5, $6)';
  await query(backend.databaseUrl, release, [0, 1, ['a'], [row?.version], [null], [null]]);
  expect(await query(backend.databaseUrl, 'SELECT FROM admission.claims')).toEqual([]);
  await backend.drop();
});

test('on PostgreSQL correcting backlogs and settling do not deadlock', async () => {
  const backend = await createBackend(undefined);
  const options = { signal: new AbortController().signal, onError: () => {} };
  const { admission, close } = await connectQueueBackend({ ...backend, shards: 1 }, 'worker', options);
  await admission.correctBacklog(0, {
    entries: 0,
    ofProjects: new Map([
      [1, 32],
      [2, 32],
    ]),
  });

  const settling = new pg.Client({ connectionString: backend.databaseUrl });
  await settling.connect();
  const { admitted } = await admission.admit(0, [{ projectId: 1, customerId: 'a' }]);
  await settling.query('BEGIN');
  await settling.query("SELECT admission.add_to_backlog(0, 0, '{2}', '{-16}')");
  const correcting = admission.correctBacklog(0, {
    entries: 0,
    ofProjects: new Map([
      [1, -16],
      [2, -16],
    ]),
  });
  await waitFor(() => isAwaited(settling), { description: 'the correction to wait' });
  await settling.query("SELECT admission.add_to_backlog(0, 0, '{1}', '{-16}')");
  await settling.query('COMMIT');
  await correcting;
  const isCounted = Number(admitted[0]?.version) % 16 === 0; // one in 16 is, see chunk.ts
  expect([...(await admission.readShardBacklog(0)).ofProjects]).toEqual(isCounted ? [[1, 16]] : []);
  await settling.end();
  await close();
  await backend.drop();
});
