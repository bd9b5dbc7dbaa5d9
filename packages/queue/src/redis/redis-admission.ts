import type { Version } from '@opm/core';
import {
  type Admission,
  type AdmitRequest,
  type AdmitResult,
  type Admitted,
  type AdmittedAgain,
  type Claim,
  type ClaimHolder,
  type Persisted,
  toFound,
  toSupersededErasure,
} from '../admission.js';
import { type Countable, claimOf, countSampled, isSampled } from '../chunk.js';
import { findNew, type KeyedPart, parseOpen, toOpenState } from '../idempotency.js';
import {
  ADD_TO_BACKLOG,
  ADMIT,
  ADMIT_AGAIN,
  ADMIT_KEYED,
  RELEASE,
  SET_SHARDS,
  SETTLE,
  SWEEP,
} from './admission-scripts.js';
import { defineScripts, type Script } from './connect-redis.js';
import type { HighWaterMarkReader } from './high-water-mark.js';
import type { RedisClient } from './ioredis-workarounds.js';
import { formatRecord, parseRecord, toRecordKeys } from './redis-idempotency.js';

type Scripts = {
  opmAdmit: Script<AdmitAnswer | null>;
  opmAdmitKeyed: Script<AdmitAnswer | null>;
  opmAdmitAgain: Script<[base: number, marks: (string | null)[], found: ClaimHolder[]] | null>;
  opmAddToBacklog: Script<number[]>;
  opmRelease: Script<void>;
  opmSettle: Script<void>;
  opmSweep: Script<string>;
  opmSetShards: Script<string>;
};

type AdmitAnswer = [
  base: number,
  backlogs: number[],
  replaced: (string | null)[],
  recordBytes: (string | number)[],
  known: string[],
];

type RedisAdmissionOptions = {
  keyspaceOf: (shard: number) => string;
  /** Key prefix that does not depend on the number of shards, for the shard count itself. */
  common: string;
  highWaterMark: Pick<HighWaterMarkReader, 'atStart' | 'read'>;
};

export function createRedisAdmission(redis: RedisClient, options: RedisAdmissionOptions): Admission {
  const { keyspaceOf, common, highWaterMark } = options;
  const scripts = defineScripts<Scripts>(redis, {
    opmAdmit: ADMIT,
    opmAdmitKeyed: ADMIT_KEYED,
    opmAdmitAgain: ADMIT_AGAIN,
    opmAddToBacklog: ADD_TO_BACKLOG,
    opmRelease: RELEASE,
    opmSettle: SETTLE,
    opmSweep: SWEEP,
    opmSetShards: SET_SHARDS,
  });
  const shardsKey = `${common}:shards`;
  const versionKey = (shard: number) => `${keyspaceOf(shard)}:version`;
  const backlogsKey = (shard: number) => `${keyspaceOf(shard)}:backlog`;
  const waitingKey = (shard: number) => `${keyspaceOf(shard)}:waiting`;
  const claimsKey = (shard: number) => `${keyspaceOf(shard)}:claims`;
  const erasuresKey = (shard: number) => `${keyspaceOf(shard)}:pending-erasures`;
  const addToBacklog = (shard: number, entries: number, ofProjects: Map<number, number>) => {
    const keys = [backlogsKey(shard), waitingKey(shard)];
    return scripts.opmAddToBacklog(keys, entries, ofProjects.size, [...ofProjects].flat());
  };
  const keysOf = (shard: number) => [backlogsKey(shard), waitingKey(shard), claimsKey(shard), erasuresKey(shard)];
  const admitKeysOf = (shard: number) => [
    ...[versionKey(shard), backlogsKey(shard), claimsKey(shard), erasuresKey(shard), waitingKey(shard)],
  ];
  const keyedKeysOf = (shard: number) => [...admitKeysOf(shard), ...toRecordKeys(keyspaceOf(shard))];
  /** The newest version that this process received, by shard. */
  const newest = new Map<number, Version>();

  return {
    setShards: async (shards, instead = 0) => Number(await scripts.opmSetShards([shardsKey], shards, instead)),

    async readShards() {
      const shards = await redis.get(shardsKey);
      return shards === null ? undefined : Number(shards);
    },

    async admit(shard, entries, parts = []) {
      const fields = toFields(entries);
      const ids = parts.map(({ id }) => id);
      const partArguments = parts.map(
        ({ fingerprint, first, size }) => fingerprint + String(first).padStart(5, '0') + toOpenState(size, ''),
      );
      const admitAbove = (version: Version, isAboveRows: boolean) => {
        const values = [fields, toErasures(entries), version, isAboveRows ? 1 : 0];
        if (parts.length === 0) return scripts.opmAdmit(admitKeysOf(shard), values);
        return scripts.opmAdmitKeyed(keyedKeysOf(shard), values, ids, partArguments);
      };
      // Start from the high-water mark: the shard's version is old if the number of shards or the store changed
      // meanwhile.
      const newestVersion = newest.get(shard) ?? (await highWaterMark.atStart);
      const answer =
        (newestVersion !== undefined && (await admitAbove(newestVersion, false))) ||
        (await admitAbove(Math.max(await highWaterMark.read(), newestVersion ?? 0), true));
      if (!answer) throw new Error('Redis assigned no versions above the high-water mark');
      return toResult(shard, entries, parts, answer);
    },

    async admitAgain(shard, entries, parts) {
      const partArguments = parts.flatMap(({ id, record, first, size }) => {
        const { claim, previous } = parseOpen(record);
        return [id, formatRecord(record), first, size, claim, toOpenState(size, previous)];
      });
      const values = [toFields(entries), toErasures(entries), newest.get(shard) ?? 0];
      const answer = await scripts.opmAdmitAgain(keyedKeysOf(shard), values, partArguments);
      if (!answer) return undefined;
      const [base, marks, found] = answer;
      received(shard, base + entries.length - 1);
      return parts.flatMap(({ record, first, size }) =>
        entries.slice(first, first + size).map(({ projectId, customerId }, j): AdmittedAgain => {
          const place = first + j;
          const [version, previous] = [record.version + j, parseMark(marks[place] ?? null)];
          const claimed = toFound(found[place] ?? 'other', { version, previous });
          return { projectId, customerId, version, claim: base + place, previous, found: claimed };
        }),
      );
    },

    async readClaims(shard, projectId, customers) {
      if (customers.length === 0) return [];
      const fields = customers.map(({ customerId }) => toField({ projectId, customerId }));
      const [marks, erasures] = await Promise.all([
        redis.hmget(claimsKey(shard), ...fields),
        redis.hmget(erasuresKey(shard), ...fields),
      ]);
      return marks.map((mark, i) => parseMark(mark) ?? toSupersededErasure(parseMark(erasures[i] ?? null)));
    },

    async readmit(shard, entries) {
      const counts = countSampled(entries);
      const backlogs = await addToBacklog(shard, entries.length, counts);
      return new Map([...counts.keys()].map((projectId, i) => [projectId, backlogs[i] ?? 0]));
    },

    async withdraw(shard, entries) {
      const counts = [...countSampled(entries)].map(([projectId, count]): [number, number] => [projectId, -count]);
      await addToBacklog(shard, -entries.length, new Map(counts));
    },

    async release(shard, admitted) {
      const counts = toCounts(admitted);
      const entries = admitted.flatMap((entry) => [
        toField(entry),
        claimOf(entry),
        entry.previous ? toMark(entry.previous) : '',
      ]);
      await scripts.opmRelease(keysOf(shard), counts, entries);
    },

    async settle(shard, persisted) {
      const runs = toRuns(persisted);
      const heads = runs.flatMap(({ entries, newest }) => [entries, newest]);
      await scripts.opmSettle(keysOf(shard), toFields(persisted), toCounts(persisted), heads);
    },

    countBacklog: async (shard) => Number(await redis.get(waitingKey(shard))),

    async readShardBacklog(shard) {
      const [waiting, backlogs] = await Promise.all([redis.get(waitingKey(shard)), redis.hgetall(backlogsKey(shard))]);
      const ofProjects = Object.entries(backlogs).map(([id, count]): [number, number] => [Number(id), Number(count)]);
      return { entries: Number(waiting), ofProjects: new Map(ofProjects) };
    },

    async correctBacklog(shard, { entries, ofProjects }) {
      await addToBacklog(shard, entries, ofProjects);
    },

    async readVersion(shard) {
      const version = await redis.get(versionKey(shard));
      return version === null ? undefined : Number(version);
    },

    async sweep(shard, before) {
      for (const key of [claimsKey(shard), erasuresKey(shard)]) {
        let cursor = '0';
        do cursor = await scripts.opmSweep([key], cursor, before);
        while (cursor !== '0');
      }
    },
  };

  function toResult(shard: number, entries: AdmitRequest[], parts: KeyedPart[], answer: AdmitAnswer): AdmitResult {
    const [base, counts, replaced, bytes, records] = answer;
    const known = records.length > 0 ? records.map(parseRecord) : undefined;
    const fresh = known ? findNew(entries, parts, known) : entries;
    received(shard, base + fresh.length - 1);
    const admitted = fresh.map(({ projectId, customerId }, i): Admitted => {
      return { projectId, customerId, version: base + i, previous: parseMark(replaced[i] ?? null) };
    });
    const sampled = admitted.filter(isSampled);
    const backlogs = new Map(sampled.map(({ projectId }, i) => [projectId, counts[i] ?? 0]));
    const recordBytes = new Map<number, number>();
    for (let i = 0; i < bytes.length; i += 2) recordBytes.set(Number(bytes[i]), Number(bytes[i + 1]));
    return { admitted, backlogs, recordBytes, known };
  }

  function received(shard: number, version: Version): void {
    newest.set(shard, Math.max(version, newest.get(shard) ?? 0));
  }
}

const toField = ({ projectId, customerId }: { projectId: number; customerId: string }) => `${projectId}:${customerId}`;

/**
 * The fields of entries as one argument. Redis cannot decode unpaired surrogates; as arguments, ioredis replaces them.
 */
const toFields = (entries: { projectId: number; customerId: string }[]) =>
  JSON.stringify(entries.map((entry) => toField(entry).toWellFormed()));

/** A string with `1` for each erasure and `0` for each other entry; empty if there is no erasure. */
const toErasures = (entries: AdmitRequest[]): string =>
  entries.some(({ erase }) => erase) ? entries.map(({ erase }) => (erase ? 1 : 0)).join('') : '';

/** ARGV of `COUNT`: the number of projects, then the id and sampled count of each. */
function toCounts(entries: Countable[]): number[] {
  const counts = countSampled(entries);
  return [counts.size, ...[...counts].flat()];
}

/** Groups entries into runs with consecutive claims. A chunk from the ingress is one run. */
function toRuns(persisted: Persisted[]): { entries: number; newest: number }[] {
  const runs: ReturnType<typeof toRuns> = [];
  for (const entry of persisted) {
    const run = runs.at(-1);
    if (run && claimOf(entry) === run.newest + 1) {
      run.entries++;
      run.newest++;
    } else runs.push({ entries: 1, newest: claimOf(entry) });
  }
  return runs;
}

/** A claim as Redis stores it, see `admission-scripts.ts`. */
const toMark = ({ version, erased }: Claim): string => String(2 * version + (erased ? 1 : 0));

function parseMark(mark: string | null): Claim | undefined {
  if (mark === null) return undefined;
  const erased = Number(mark) % 2;
  return { version: (Number(mark) - erased) / 2, erased: erased === 1 };
}
