import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { RECORD_TTL_US, type Version } from '@opm/core';
import { BACKENDS, type Backend, createBackend, query, waitFor } from '@opm/testkit';
import type { AdmitRequest, AdmitResult, AdmittedAgain } from '../src/admission.js';
import { type KeyedPart, type OpenPart, parsePart, toClosedState, toRecordBytes } from '../src/idempotency.js';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { QueueBackend } from '../src/queue-store.js';
import { changeVersion, fillShare } from './idempotency-share.js';

const SHARDS = 4;
const SHARD = 1;
const FINGERPRINT = 'bodyBody';
const HOUR_US = 3_600_000_000;
const HALF_DAY_US = 12 * HOUR_US;

type Customer = { customerId: string; erase?: true };

const of = (projectId: number, ...customers: Customer[]): AdmitRequest[] =>
  customers.map((customer) => ({ projectId, ...customer }));
const named = (...ids: string[]): Customer[] => ids.map((customerId) => ({ customerId }));
const erasing = (customerId: string): Customer => ({ customerId, erase: true });
const present = (version: Version) => ({ version, erased: false });
const erased = (version: Version) => ({ version, erased: true });

let ids = 0;
const freshId = () => `x${String(ids++).padStart(15, '-')}`;
const toPart = (projectId: number, size: number, first = 0, id = freshId()): KeyedPart => {
  return { id, fingerprint: FINGERPRINT, projectId, first, size };
};
const options = { signal: new AbortController().signal, onError: () => {} };

describe.each(BACKENDS)('idempotency on %s:', (_, createBackend) => {
  let backend: Backend;
  let one: QueueBackend;
  let other: QueueBackend;

  beforeAll(async () => {
    backend = await createBackend();
    one = await connectQueueBackend({ ...backend, shards: SHARDS }, 'producer', options);
    other = await connectQueueBackend({ ...backend, shards: SHARDS }, 'producer', options);
  });
  afterAll(async () => {
    await one.close();
    await other.close();
    await backend.drop();
  });

  let projects = 0;
  /** A project that no other test has. */
  const freshProject = () => ++projects;

  const readOne = async (id: string, shard = SHARD) => (await other.idempotency.read(shard, [id]))[0];
  const readState = async (id: string) => {
    const record = await readOne(id);
    return record && parsePart(record);
  };
  const age = (id: string, version: number, shard = SHARD) =>
    changeVersion(backend, { shard, shards: SHARDS, id }, version);
  const expire = (id: string, shard = SHARD) => age(id, Date.now() * 1_000 - RECORD_TTL_US - 1_000_000, shard);
  const readClaims = (projectId: number, ...customerIds: string[]) =>
    one.admission.readClaims(SHARD, projectId, named(...customerIds));
  /** All that an admission changes. */
  const readShard = async (projectId: number, ...customerIds: string[]) => ({
    version: await one.admission.readVersion(SHARD),
    backlog: await one.admission.countBacklog(SHARD),
    claims: await readClaims(projectId, ...customerIds),
  });

  /** Admits the customers as one part. */
  const admitPart = async (projectId: number, ...customers: Customer[]) => {
    const part = toPart(projectId, customers.length);
    const { admitted } = await one.admission.admit(SHARD, of(projectId, ...customers), [part]);
    return { part, versions: admitted.map(({ version }) => version), admitted };
  };
  const admit = async (projectId: number, ...customers: Customer[]) =>
    (await one.admission.admit(SHARD, of(projectId, ...customers))).admitted.map(({ version }) => version);
  const open = async (part: KeyedPart): Promise<OpenPart> => {
    const record = await readOne(part.id);
    if (!record) throw new Error('the part must have a record');
    return { ...part, record };
  };
  /** Admits a part again, with the record that it has now. */
  const admitAgain = async (part: KeyedPart, ...customers: Customer[]): Promise<AdmittedAgain[]> => {
    const again = await other.admission.admitAgain(SHARD, of(part.projectId, ...customers), [await open(part)]);
    if (!again) throw new Error('the part must be admitted again');
    return again;
  };
  const settle = (projectId: number, customerId: string, version: Version, claim = version) =>
    other.admission.settle(SHARD, [{ projectId, customerId, version, claim }]);

  describe('the first admission:', () => {
    test('each part gets an open record of its first version, which every process reads', async () => {
      const projectId = freshProject();
      const [single, many] = [toPart(projectId, 1, 1), toPart(projectId, 3, 2)];
      const entries = of(projectId, ...named('no key', 'a', 'b', 'c', 'd'));
      const { admitted, known } = await one.admission.admit(SHARD, entries, [single, many]);
      expect(known).toBeUndefined();
      const versions = admitted.map(({ version }) => version);
      expect(versions).toEqual(versions.map((_version, i) => (versions[0] ?? 0) + i));
      const records = await other.idempotency.read(SHARD, [many.id, freshId(), single.id]);
      expect(records).toEqual([
        { fingerprint: FINGERPRINT, version: versions[2], state: ':3:' },
        undefined,
        { fingerprint: FINGERPRINT, version: versions[1], state: ':1:' },
      ]);
      expect(await readState(many.id)).toEqual({ size: 3, previous: '', claim: versions[2] });
    });

    test('parts that are known are left out and returned in place, and the others are admitted', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, ...named('a', 'b'));
      const before = await readShard(projectId, 'a', 'b');
      const [first, last] = [toPart(projectId, 1), toPart(projectId, 2, 3)];
      const customers = [...named('c', 'a', 'b', 'd'), erasing('e'), ...named('f')];
      const { admitted, known } = await other.admission.admit(SHARD, of(projectId, ...customers), [
        first,
        { ...part, first: 1, fingerprint: 'another.' },
        last,
      ]);
      const record = { fingerprint: FINGERPRINT, version: versions[0], state: ':2:' };
      expect(known).toEqual([undefined, record, undefined]);
      expect(admitted.map(({ customerId }) => customerId)).toEqual(['c', 'd', 'e', 'f']);
      const [c = 0, d = 0, e = 0, f = 0] = admitted.map(({ version }) => version);
      expect([d, e, f]).toEqual([c + 1, c + 2, c + 3]);
      const claims = [...before.claims, present(c), present(d), erased(e), present(f)];
      const after = { version: f, backlog: before.backlog + 4, claims };
      expect(await readShard(projectId, 'a', 'b', 'c', 'd', 'e', 'f')).toEqual(after);
      expect(await other.idempotency.read(SHARD, [first.id, part.id, last.id])).toEqual([
        { fingerprint: FINGERPRINT, version: c, state: ':1:' },
        record,
        { fingerprint: FINGERPRINT, version: d, state: ':2:' },
      ]);
    });

    test('if all parts are known, nothing changes', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, ...named('a', 'b'));
      const before = await readShard(projectId, 'a', 'b');
      const result = await other.admission.admit(SHARD, of(projectId, ...named('a', 'b')), [part]);
      const known = [{ fingerprint: FINGERPRINT, version: versions[0], state: ':2:' }];
      expect(result).toEqual({ admitted: [], backlogs: new Map(), recordBytes: new Map(), known });
      expect(await readShard(projectId, 'a', 'b')).toEqual(before);
    });

    test('a record says which customers had a claim, and whether it was an erasure', async () => {
      const projectId = freshProject();
      await admit(projectId, ...named('present'), erasing('erased'));
      const { part } = await admitPart(projectId, ...named('present', 'erased', 'new', 'new'));
      expect((await readOne(part.id))?.state).toBe(':4:pe-p');
    });

    test('the same id in another shard is another part', async () => {
      const projectId = freshProject();
      const { part } = await admitPart(projectId, ...named('a'));
      const { known, admitted } = await one.admission.admit(2, of(projectId, ...named('b')), [part]);
      expect([known, admitted.length]).toEqual([undefined, 1]);
    });

    test('of many simultaneous calls with a part, exactly one admits, also to a shard that never admitted', async () => {
      const projectId = freshProject();
      for (const shard of [SHARD, 3]) {
        const part = toPart(projectId, 1);
        const calls = Array.from({ length: 30 }, (_call, i) =>
          (i % 2 ? one : other).admission.admit(shard, of(projectId, ...named('a')), [part]),
        );
        const results: AdmitResult[] = await Promise.all(calls);
        const [admitted, ...more] = results.flatMap((result) => result.admitted);
        expect(more).toEqual([]);
        const known = results.flatMap((result) => result.known ?? []);
        expect(known).toHaveLength(29);
        expect(new Set(known.map((record) => record?.version))).toEqual(new Set([admitted?.version]));
      }
    });

    test('an expired record counts as absent: its part is admitted, and gets a new record', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, ...named('a'));
      await age(part.id, Date.now() * 1_000 - RECORD_TTL_US + HOUR_US);
      expect(await readOne(part.id)).toBeDefined();
      await expire(part.id);
      expect(await readOne(part.id)).toBeUndefined();
      const changed = { ...part, fingerprint: 'another.' };
      const { admitted, known } = await one.admission.admit(SHARD, of(projectId, ...named('a')), [changed]);
      expect(known).toBeUndefined();
      expect(admitted[0]?.version).toBeGreaterThan(versions[0] ?? 0);
      expect(await readOne(part.id)).toEqual({ fingerprint: 'another.', version: admitted[0]?.version, state: ':1:p' });
    });
  });

  describe('requests and closed parts:', () => {
    test('a request is remembered with its first fingerprint until it expires', async () => {
      const request = { id: freshId(), fingerprint: FINGERPRINT, projectId: freshProject() };
      const before = Date.now() * 1_000;
      expect(await one.idempotency.remember(SHARD, [request])).toEqual([undefined]);
      const [found] = await other.idempotency.remember(SHARD, [{ ...request, fingerprint: 'another.' }]);
      expect(found).toEqual({ fingerprint: FINGERPRINT, version: expect.any(Number), state: '' });
      expect(found?.version).toBeGreaterThan(before - 60_000_000);
      expect(found && parsePart(found)).toBeUndefined();
      expect(await readOne(request.id)).toEqual(found);
      await expire(request.id);
      expect(await other.idempotency.remember(SHARD, [{ ...request, fingerprint: 'another.' }])).toEqual([undefined]);
      expect((await readOne(request.id))?.fingerprint).toBe('another.');
    });

    test('one call remembers many requests in order, also if one occurs twice', async () => {
      const projectId = freshProject();
      const requests = Array.from({ length: 50 }, () => ({ id: freshId(), fingerprint: FINGERPRINT, projectId }));
      const twice = [...requests, ...requests.slice(0, 1)];
      const found = (await one.idempotency.remember(0, twice)).map((record) => record?.fingerprint);
      expect(found).toEqual([...requests.map(() => undefined), FINGERPRINT]);
      const known = await other.idempotency.remember(0, requests.toReversed());
      const read = await other.idempotency.read(0, requests.map(({ id }) => id).reverse());
      expect(known).toEqual(read);
      expect(known.every(Boolean)).toBe(true);
    });

    test('only a part with that version is closed, and concurrent verdicts are merged', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, ...named('a', 'b', 'c', 'd', 'e'));
      const { part: untouched } = await admitPart(projectId, ...named('f'));
      const request = { id: freshId(), fingerprint: FINGERPRINT, projectId };
      await one.idempotency.remember(SHARD, [request]);
      const remembered = (await readOne(request.id))?.version ?? 0;
      const [version = 0] = versions;
      const close = (existed: boolean[], of = version) =>
        one.idempotency.close(SHARD, [
          { id: part.id, version: of, state: toClosedState(existed) },
          { id: request.id, version: remembered, state: toClosedState(existed) },
          { id: freshId(), version: of, state: toClosedState(existed) },
        ]);
      const existed = [true, false, true, true, true];
      const other = [false, true, true, true, true];
      const both = [false, false, true, true, true];
      expect(await close(existed, version + 1)).toEqual(new Map());
      expect((await readOne(part.id))?.state).toBe(':5:');
      for (let n = 0; n < 2; n++) expect(await close(existed)).toEqual(new Map());
      expect(await readOne(part.id)).toMatchObject({ version, fingerprint: FINGERPRINT });
      expect(await readState(part.id)).toEqual({ size: 5, existed });
      expect(await close(other)).toEqual(new Map([[0, toClosedState(both)]]));
      expect(await close(both)).toEqual(new Map());
      expect(await close(existed)).toEqual(new Map([[0, toClosedState(both)]]));
      expect(await readState(part.id)).toEqual({ size: 5, existed: both });
      expect(await readOne(part.id)).toMatchObject({ version, fingerprint: FINGERPRINT });
      expect((await readOne(request.id))?.state).toBe('');
      expect((await readOne(untouched.id))?.state).toBe(':1:');
    });

    test('parts of different half days are closed in any order', async () => {
      const projectId = freshProject();
      const parts = await Promise.all(['a', 'b', 'c'].map((id) => admitPart(projectId, { customerId: id })));
      const [first, second, third] = parts.map(({ part }) => part.id) as [string, string, string];
      const noon = Math.floor((Date.now() * 1_000) / HALF_DAY_US) * HALF_DAY_US;
      const versions: [id: string, version: Version][] = [
        [first, noon + 10],
        [second, noon - 10],
        [third, noon + 20],
      ];
      for (const [id, version] of versions) await age(id, version);
      const state = toClosedState([true]);
      expect(
        await one.idempotency.close(
          SHARD,
          versions.map(([id, version]) => ({ id, version, state })),
        ),
      ).toEqual(new Map());
      const records = await other.idempotency.read(SHARD, [first, second, third]);
      expect(records.map((record) => record?.state)).toEqual([state, state, state]);
    });

    test('a project’s bytes grow by its new records, one in 16 of them counted 16 times', async () => {
      const [projectId, otherProject] = [freshProject(), freshProject()];
      const each = 16 * toRecordBytes(1);
      const read = (project = projectId) => other.idempotency.readBytes(SHARD, project);
      const some = named(...Array.from({ length: 32 }, (_entry, i) => `c ${i}`));
      const entries = [...of(projectId, ...some), ...of(otherProject, ...some.slice(16))];
      const parts = entries.map((entry, i) => toPart(entry.projectId, 1, i));
      const first = await one.admission.admit(SHARD, entries, parts);
      const counts = new Map([projectId, otherProject].map((project, i) => [project, (2 - i) * each]));
      expect(first.recordBytes).toEqual(counts);
      expect([await read(), await read(otherProject)]).toEqual([2 * each, each]);

      expect((await one.admission.admit(SHARD, entries, parts)).known?.every(Boolean)).toBe(true);
      const closed = first.admitted.map(({ version }, i) => ({ id: parts[i]?.id ?? '', version, state: '=1:1' }));
      await one.idempotency.close(SHARD, closed);
      expect(await read()).toBe(2 * each);
      expect(await read(freshProject())).toBe(0);
      expect(other.idempotency.maxBytes()).toBeGreaterThan(0);
    });

    test('remembered requests count as records do', async () => {
      const projectId = freshProject();
      let expected = 0;
      const isCounted = async () => {
        const request = { id: freshId(), fingerprint: FINGERPRINT, projectId };
        for (let i = 0; i < 2; i++) await one.idempotency.remember(SHARD, [request]);
        const { version = 1 } = (await readOne(request.id)) ?? {};
        if (version % 16 === 0) expected = 16 * toRecordBytes(0);
        expect(await other.idempotency.readBytes(SHARD, projectId)).toBe(expected);
        return expected > 0;
      };
      await waitFor(isCounted, { description: 'a request that counts' });
    });

    test('bytes count until their period is over', async () => {
      const projectId = freshProject();
      const part = toPart(projectId, 1);
      await one.admission.admit(SHARD, of(projectId, ...named('a')), [part]);
      await fillShare(backend, projectId);
      expect(await other.idempotency.readBytes(SHARD, projectId)).toBeGreaterThan(other.idempotency.maxBytes());
      await fillShare(backend, projectId, { isExpired: true });
      expect(await other.idempotency.readBytes(SHARD, projectId)).toBe(0);
    });

    test('calls with the same records and projects in different orders do not deadlock', async () => {
      const both = [freshProject(), freshProject()];
      const parts = Array.from({ length: 40 }, (_part, i) => toPart(both[i % 2] ?? 0, 1));
      const calls = Array.from({ length: 24 }, async (_call, i) => {
        const { admission, idempotency } = i % 2 ? one : other;
        const mine = i % 4 < 2 ? parts : parts.toReversed();
        await idempotency.remember(0, mine);
        const fresh = mine.map((part, first) => ({ ...part, id: freshId(), first }));
        const entries = fresh.map(({ projectId, id }) => ({ projectId, customerId: id }));
        const shard = i % 3;
        const { admitted } = await admission.admit(shard, entries, fresh);
        const closed = fresh.map(({ id }, j) => ({ id, version: admitted[j]?.version ?? 0, state: '=1:0' }));
        await Promise.all([
          idempotency.close(shard, closed),
          idempotency.close(shard, closed.toReversed()),
          idempotency.sweep(),
          admission.settle(shard, admitted),
        ]);
        return idempotency.read(
          shard,
          fresh.map(({ id }) => id),
        );
      });
      const read = (await Promise.all(calls)).flat();
      expect(read.map((record) => record?.state)).toEqual(Array(24 * 40).fill('=1:0'));
    });

    test('a sweep keeps all records that count', async () => {
      const projectId = freshProject();
      const [young, old] = [await admitPart(projectId, ...named('a')), await admitPart(projectId, ...named('b'))];
      const request = { id: freshId(), fingerprint: FINGERPRINT, projectId };
      await one.idempotency.remember(SHARD, [request]);
      await age(old.part.id, Date.now() * 1_000 - RECORD_TTL_US + HOUR_US);
      await one.idempotency.sweep();
      const kept = await one.idempotency.read(SHARD, [young.part.id, old.part.id, request.id]);
      expect(kept.map((record) => record?.state)).toEqual([':1:', ':1:', '']);
    });
  });

  describe('admission again:', () => {
    test('an entry keeps its version, and its own claim gets the new version', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, ...named('a', 'b'));
      const backlog = await one.admission.countBacklog(SHARD);
      const first = await admitAgain(part, ...named('a', 'b'));
      expect(first.map(({ version }) => version)).toEqual(versions);
      expect(first.map(({ found }) => found)).toEqual(['own', 'own']);
      expect(first.map(({ previous }) => previous)).toEqual(versions.map(present));
      const claims = first.map(({ claim }) => claim);
      expect(claims[0]).toBeGreaterThan(versions[1] ?? 0);
      expect(claims[1]).toBe((claims[0] ?? 0) + 1);
      expect(await readClaims(projectId, 'a', 'b')).toEqual(claims.map(present));
      expect(await readState(part.id)).toEqual({ size: 2, previous: '', claim: claims[0] });
      expect(await one.admission.readVersion(SHARD)).toBe(claims[1]);
      expect(await one.admission.countBacklog(SHARD)).toBe(backlog + 2);

      const second = await admitAgain(part, ...named('a', 'b'));
      expect(second.map(({ version, found }) => [version, found])).toEqual(versions.map((version) => [version, 'own']));
      expect(second.map(({ previous }) => previous)).toEqual(claims.map(present));
      expect((await readOne(part.id))?.version).toBe(versions[0]);
    });

    test('new versions count for the backlogs of their projects', async () => {
      const projectId = freshProject();
      const customers = named(...Array.from({ length: 64 }, (_customer, i) => `c ${i}`));
      const { part } = await admitPart(projectId, ...customers);
      expect((await one.admission.readShardBacklog(SHARD)).ofProjects.get(projectId)).toBe(64);
      const again = await admitAgain(part, ...customers);
      expect((await one.admission.readShardBacklog(SHARD)).ofProjects.get(projectId)).toBe(128);
      await one.admission.settle(SHARD, again);
      expect((await one.admission.readShardBacklog(SHARD)).ofProjects.get(projectId)).toBe(64);
    });

    test('a customer without a claim gets one', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, ...named('a'));
      await settle(projectId, 'a', versions[0] ?? 0);
      const [again] = await admitAgain(part, ...named('a'));
      expect(again).toMatchObject({ found: 'none', previous: undefined, version: versions[0] });
      expect(await readClaims(projectId, 'a')).toEqual([present(again?.claim ?? 0)]);
      expect((await admitAgain(part, ...named('a')))[0]?.found).toBe('own');
    });

    test('a customer without a claim gets none that says erased, but the erasure is pending', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, erasing('a'));
      await settle(projectId, 'a', versions[0] ?? 0);
      const [again] = await admitAgain(part, erasing('a'));
      expect(again).toMatchObject({ found: 'none', previous: undefined });
      expect(await readClaims(projectId, 'a')).toEqual([present(again?.claim ?? 0)]); // of the pending erasure
      const { admitted } = await one.admission.admit(SHARD, of(projectId, ...named('a')));
      expect(admitted[0]?.previous).toBeUndefined();
      await settle(projectId, 'a', again?.version ?? 0, again?.claim);
      await settle(projectId, 'a', admitted[0]?.version ?? 0);
      expect(await readClaims(projectId, 'a')).toEqual([undefined]);
    });

    test('an own claim that says erased still says so, and its erasure is pending with the new version', async () => {
      const projectId = freshProject();
      const { part, versions } = await admitPart(projectId, erasing('a'));
      const [again] = await admitAgain(part, erasing('a'));
      const claim = again?.claim ?? 0;
      expect(again).toMatchObject({ found: 'own', previous: erased(versions[0] ?? 0) });
      expect(await readClaims(projectId, 'a')).toEqual([erased(claim)]);
      const [newer = 0] = await admit(projectId, ...named('a'));
      await settle(projectId, 'a', newer);
      expect(await readClaims(projectId, 'a')).toEqual([present(claim)]);
      await settle(projectId, 'a', versions[0] ?? 0, claim);
      expect(await readClaims(projectId, 'a')).toEqual([undefined]);
    });

    test('a newer claim stays, whether it is present or erased', async () => {
      const projectId = freshProject();
      const { part } = await admitPart(projectId, ...named('newer', 'erased'));
      const [newer = 0, gone = 0] = await admit(projectId, ...named('newer'), erasing('erased'));
      const again = await admitAgain(part, ...named('newer', 'erased'));
      expect(again.map(({ found }) => found)).toEqual(['newer', 'newer']);
      expect(again.map(({ previous }) => previous)).toEqual([present(newer), erased(gone)]);
      expect(await readClaims(projectId, 'newer', 'erased')).toEqual([present(newer), erased(gone)]);

      for (const { customerId, version, claim } of again) await settle(projectId, customerId, version, claim);
      expect(await readClaims(projectId, 'newer', 'erased')).toEqual([present(newer), erased(gone)]);
      await settle(projectId, 'newer', newer);
      await settle(projectId, 'erased', gone);
      expect(await readClaims(projectId, 'newer', 'erased')).toEqual([undefined, undefined]);
    });

    test('an older claim is replaced, and says erased only if it did and the entry erases, too', async () => {
      const projectId = freshProject();
      const older = [...named('post after post', 'erasure after post'), erasing('post after erasure'), erasing('both')];
      const newer = [...named('post after post'), erasing('erasure after post'), ...named('post after erasure')];
      const customers = [...newer, erasing('both')];
      const names = customers.map(({ customerId }) => customerId);
      const olderVersions = await admit(projectId, ...older);
      const { part, admitted } = await admitPart(projectId, ...customers);
      await one.admission.release(SHARD, admitted);
      const again = await admitAgain(part, ...customers);
      expect(again.map(({ found }) => found)).toEqual(['older', 'older', 'older', 'older']);
      const [a = 0, b = 0, c = 0, d = 0] = olderVersions;
      expect(again.map(({ previous }) => previous)).toEqual([present(a), present(b), erased(c), erased(d)]);
      const [e = 0, f = 0, g = 0, h = 0] = again.map(({ claim }) => claim);
      const claims = [present(e), present(f), present(g), erased(h)];
      expect(await readClaims(projectId, ...names)).toEqual(claims);

      for (const [i, version] of olderVersions.entries()) await settle(projectId, names[i] ?? '', version);
      expect(await readClaims(projectId, ...names)).toEqual(claims);
      for (const { customerId, version, claim } of again) await settle(projectId, customerId, version, claim);
      expect(await readClaims(projectId, ...names)).toEqual(names.map(() => undefined));
    });

    test('a post after an erasure of its own part leaves no claim that says erased', async () => {
      const projectId = freshProject();
      await admit(projectId, erasing('a'));
      const customers = [erasing('a'), ...named('a')];
      const { part, admitted } = await admitPart(projectId, ...customers);
      await one.admission.release(SHARD, admitted);
      const again = await admitAgain(part, ...customers);
      expect(again.map(({ found }) => found)).toEqual(['older', 'own']);
      expect(await readClaims(projectId, 'a')).toEqual([present(again[1]?.claim ?? 0)]);
    });

    test('an erasure leaves a newer claim and a newer pending erasure as they are', async () => {
      const projectId = freshProject();
      const { part } = await admitPart(projectId, erasing('a'), erasing('b'));
      const [a = 0, b = 0] = await admit(projectId, ...named('a'), erasing('b'));
      const again = await admitAgain(part, erasing('a'), erasing('b'));
      expect(again.map(({ found }) => found)).toEqual(['newer', 'newer']);
      await settle(projectId, 'a', a);
      // The erasure of `a` is pending again.
      expect(await readClaims(projectId, 'a', 'b')).toEqual([present(again[0]?.claim ?? 0), erased(b)]);

      const [newer = 0] = await admit(projectId, ...named('b'));
      await settle(projectId, 'b', newer);
      expect((await admitAgain(part, erasing('a'), erasing('b')))[1]?.found).toBe('none');
      expect(await readClaims(projectId, 'b')).toEqual([present(b)]);
    });

    test('entries of a part with the same customer each follow the entry before', async () => {
      const projectId = freshProject();
      const customers = [...named('a', 'a', 'b'), erasing('b')];
      const { part, versions } = await admitPart(projectId, ...customers);
      const own = await admitAgain(part, ...customers);
      const [, second = 0, third = 0, fourth = 0] = own.map(({ claim }) => claim);
      expect(own.map(({ found }) => found)).toEqual(['own', 'own', 'own', 'own']);
      expect(own.map(({ previous }) => previous)).toEqual([
        present(versions[1] ?? 0),
        present(own[0]?.claim ?? 0),
        erased(versions[3] ?? 0),
        erased(third),
      ]);
      expect(await readClaims(projectId, 'a', 'b')).toEqual([present(second), erased(fourth)]);

      for (const { customerId, version, claim } of own) await settle(projectId, customerId, version, claim);
      const none = await admitAgain(part, ...customers);
      expect(none.map(({ found }) => found)).toEqual(['none', 'own', 'none', 'own']);
      expect(await readClaims(projectId, 'a', 'b')).toEqual([
        present(none[1]?.claim ?? 0),
        present(none[3]?.claim ?? 0),
      ]);
    });

    test('of two erasures of a customer in a part, the last one is pending', async () => {
      const projectId = freshProject();
      const customers = [erasing('a'), erasing('a')];
      const { part, versions } = await admitPart(projectId, ...customers);
      for (const version of versions) await settle(projectId, 'a', version);
      const [first, last] = await admitAgain(part, ...customers);
      await settle(projectId, 'a', first?.version ?? 0, first?.claim);
      expect(await readClaims(projectId, 'a')).toEqual([present(last?.claim ?? 0)]);
      await settle(projectId, 'a', last?.version ?? 0, last?.claim);
      expect(await readClaims(projectId, 'a')).toEqual([undefined]);
    });

    test('parts in one call keep their own versions, and do not take each other’s claims', async () => {
      const projectId = freshProject();
      const [a, b] = [await admitPart(projectId, ...named('a', 'c')), await admitPart(projectId, ...named('a'))];
      const parts = [await open(a.part), { ...(await open(b.part)), first: 2 }];
      const again = await one.admission.admitAgain(SHARD, of(projectId, ...named('a', 'c', 'a')), parts);
      expect(again?.map(({ version }) => version)).toEqual([...a.versions, ...b.versions]);
      expect(again?.map(({ found }) => found)).toEqual(['newer', 'own', 'own']);
      const claims = again?.map(({ claim }) => claim) ?? [];
      expect(await readClaims(projectId, 'a', 'c')).toEqual([present(claims[2] ?? 0), present(claims[1] ?? 0)]);
      expect(await readState(b.part.id)).toMatchObject({ claim: claims[2] });
      expect(await readState(a.part.id)).toMatchObject({ claim: claims[0] });
    });

    test('releasing restores the claims and the backlog', async () => {
      const projectId = freshProject();
      const customers = [...named('own', 'none', 'newer'), erasing('erased'), ...named('own')];
      const { part, versions } = await admitPart(projectId, ...customers);
      await settle(projectId, 'none', versions[1] ?? 0);
      const [newer = 0] = await admit(projectId, ...named('newer'));
      const { version, ...before } = await readShard(projectId, 'own', 'none', 'newer', 'erased');
      const again = await admitAgain(part, ...customers);
      await one.admission.release(SHARD, again);
      expect(await readShard(projectId, 'own', 'none', 'newer', 'erased')).toMatchObject(before);
      expect(before.claims).toEqual([present(versions[4] ?? 0), undefined, present(newer), erased(versions[3] ?? 0)]);
      await settle(projectId, 'erased', versions[3] ?? 0);
      expect(await readClaims(projectId, 'erased')).toEqual([undefined]);
      expect(version).toBeLessThan(again[0]?.claim ?? 0);
    });

    test('if one record changed meanwhile, nothing is admitted', async () => {
      const projectId = freshProject();
      const { part: unchanged } = await admitPart(projectId, ...named('a'));
      const refuse = async (change: (part: OpenPart) => Promise<unknown>) => {
        const changed = await open((await admitPart(projectId, ...named('b'))).part);
        await change(changed);
        const before = await readShard(projectId, 'a', 'b');
        const parts = [await open(unchanged), { ...changed, first: 1 }];
        const again = await other.admission.admitAgain(SHARD, of(projectId, ...named('a', 'b')), parts);
        expect(again).toBeUndefined();
        expect(await readShard(projectId, 'a', 'b')).toEqual(before);
        expect((await readOne(unchanged.id))?.state).toBe(':1:');
      };
      await refuse(({ id, record }) => one.idempotency.close(SHARD, [{ id, ...record, state: '=1:1' }]));
      await refuse((part) => admitAgain(part, ...named('b')));
      await refuse(({ id }) => age(id, Date.now() * 1_000 - HOUR_US));
      await refuse(({ id }) => expire(id));
    });

    test('of simultaneous calls with the same record, exactly one admits again', async () => {
      const projectId = freshProject();
      const part = await open((await admitPart(projectId, ...named('a'))).part);
      const calls = Array.from({ length: 20 }, (_call, i) =>
        (i % 2 ? one : other).admission.admitAgain(SHARD, of(projectId, ...named('a')), [part]),
      );
      expect((await Promise.all(calls)).filter(Boolean)).toHaveLength(1);
    });
  });
});

test('on PostgreSQL a sweep removes expired records, counts of bytes, and responses of the release before', async () => {
  const backend = await createBackend(undefined);
  const { admission, idempotency, close } = await connectQueueBackend({ ...backend, shards: 1 }, 'worker', options);
  const entries = of(1, ...named(...Array.from({ length: 1_000 }, (_entry, i) => `c ${i}`)));
  const admitParts = async () => {
    const parts = entries.map((_entry, i) => toPart(1, 1, i));
    return { parts, versions: (await admission.admit(0, entries, parts)).admitted.map(({ version }) => version) };
  };
  const [over, kept] = [await admitParts(), await admitParts()];
  const run = (text: string, ...values: unknown[]) =>
    query<{ id: string; bytes: string }>(backend.databaseUrl, text, values);
  expect(await idempotency.sweep()).toBe(0);
  const ageAll = ({ versions }: typeof over, version: number) =>
    run('UPDATE admission.idempotency_records SET version = $1 WHERE version = ANY($2)', version, versions);
  await ageAll(over, Date.now() * 1_000 - RECORD_TTL_US - 1_000_000);
  await ageAll(kept, Date.now() * 1_000 - RECORD_TTL_US + HOUR_US);
  await run(`
    INSERT INTO admission.idempotency_record_bytes
    SELECT project_id, period - 3, 1 FROM admission.idempotency_record_bytes`);
  await run(`
    INSERT INTO admission.idempotency_keys (id, fingerprint, expires_at)
    VALUES ('over', '', now() - interval '1 s'), ('kept', '', now() + interval '1 h')`);

  expect(await idempotency.sweep()).toBe(1_001);
  const read = async ({ parts }: typeof over) => {
    const ids = parts.map(({ id }) => id);
    return (await idempotency.read(0, ids)).filter(Boolean).length;
  };
  expect([await read(over), await read(kept)]).toEqual([0, 1_000]);
  expect(await run('SELECT FROM admission.idempotency_records')).toHaveLength(1_000);
  const counted = [...over.versions, ...kept.versions].filter((version) => version % 16 === 0).length;
  const counts = await run('SELECT bytes FROM admission.idempotency_record_bytes');
  expect(counts.map(({ bytes }) => Number(bytes))).toEqual([16 * counted * toRecordBytes(1)]);
  expect(await run('SELECT id FROM admission.idempotency_keys')).toEqual([{ id: 'kept' }]);
  await close();
  await backend.drop();
});
