import type { Version } from '@opm/core';
import { type Admission, type Admitted, type Claim, type Persisted, toSupersededErasure } from '../admission.js';
import { type Countable, claimOf, countSampled, isSampled } from '../chunk.js';
import { ADD_TO_BACKLOG, ADMIT, RELEASE, SET_SHARDS, SETTLE, SWEEP } from './admission-scripts.js';
import type { HighWaterMark } from './high-water-mark.js';
import type { RedisClient } from './ioredis-workarounds.js';

/** Arguments may be arrays, which ioredis flattens: an array may be too long for a JavaScript call to spread. */
type Script<Answer> = (
  keyCount: number,
  ...keysAndArguments: (string | number | (string | number)[])[]
) => Promise<Answer>;
type Scripts = {
  opmAdmit: Script<[base: number, backlogs: number[], replaced: (string | null)[]] | null>;
  opmAddToBacklog: Script<number[]>;
  opmRelease: Script<void>;
  opmSettle: Script<void>;
  opmSweep: Script<string>;
  opmSetShards: Script<string>;
};

type RedisAdmissionOptions = {
  keyspaceOf: (shard: number) => string;
  /** Key prefix that does not depend on the number of shards, for the shard count itself. */
  common: string;
  mark: Pick<HighWaterMark, 'atStart' | 'read'>;
};

export function createRedisAdmission(redis: RedisClient, options: RedisAdmissionOptions): Admission {
  const { keyspaceOf, common, mark } = options;
  redis.defineCommand('opmAdmit', { lua: ADMIT });
  redis.defineCommand('opmRelease', { lua: RELEASE });
  redis.defineCommand('opmSettle', { lua: SETTLE });
  redis.defineCommand('opmAddToBacklog', { lua: ADD_TO_BACKLOG });
  redis.defineCommand('opmSweep', { lua: SWEEP });
  redis.defineCommand('opmSetShards', { lua: SET_SHARDS });
  const scripts = redis as unknown as Scripts;
  const shardsKey = `${common}:shards`;
  const versionKey = (shard: number) => `${keyspaceOf(shard)}:version`;
  const backlogsKey = (shard: number) => `${keyspaceOf(shard)}:backlog`;
  const waitingKey = (shard: number) => `${keyspaceOf(shard)}:waiting`;
  const claimsKey = (shard: number) => `${keyspaceOf(shard)}:claims`;
  const erasuresKey = (shard: number) => `${keyspaceOf(shard)}:pending-erasures`;
  const addToBacklog = (shard: number, entries: number, ofProjects: Map<number, number>) => {
    const keys = [backlogsKey(shard), waitingKey(shard)];
    return scripts.opmAddToBacklog(2, keys, entries, ofProjects.size, [...ofProjects].flat());
  };
  const keysOf = (shard: number) => [backlogsKey(shard), waitingKey(shard), claimsKey(shard), erasuresKey(shard)];
  /** The newest version that this process received, by shard. */
  const newest = new Map<number, Version>();

  return {
    setShards: async (shards, instead = 0) => Number(await scripts.opmSetShards(1, shardsKey, shards, instead)),

    async readShards() {
      const shards = await redis.get(shardsKey);
      return shards === null ? undefined : Number(shards);
    },

    async admit(shard, entries) {
      const keys = [versionKey(shard), backlogsKey(shard), claimsKey(shard), erasuresKey(shard), waitingKey(shard)];
      const erases = entries.some(({ erase }) => erase) ? entries.map(({ erase }) => (erase ? 1 : 0)).join('') : '';
      const fields = entries.map(toField);
      const admitAbove = (version: Version, isAboveRows: boolean) =>
        scripts.opmAdmit(5, keys, erases, version, isAboveRows ? 1 : 0, fields);
      // Start from the high-water mark: the shard's version is old if the number of shards or the store changed
      // meanwhile.
      const known = newest.get(shard) ?? (await mark.atStart);
      const answer =
        (known !== undefined && (await admitAbove(known, false))) ||
        (await admitAbove(Math.max(await mark.read(), known ?? 0), true));
      if (!answer) throw new Error('Redis assigned no versions above the high-water mark');
      const [base, counts, replaced] = answer;
      newest.set(shard, Math.max(base + entries.length - 1, newest.get(shard) ?? 0));
      const admitted = entries.map(({ projectId, customerId }, i): Admitted => {
        return { projectId, customerId, version: base + i, previous: parseMark(replaced[i] ?? null) };
      });
      const sampled = admitted.filter(isSampled);
      const backlogs = new Map(sampled.map(({ projectId }, i) => [projectId, counts[i] ?? 0]));
      return { admitted, backlogs };
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
        entry.version,
        entry.previous ? toMark(entry.previous) : '',
      ]);
      await scripts.opmRelease(4, keysOf(shard), counts, entries);
    },

    async settle(shard, persisted) {
      const runs = toRuns(persisted);
      const heads = runs.flatMap(({ entries, newest }) => [entries, newest]);
      await scripts.opmSettle(4, keysOf(shard), toCounts(persisted), runs.length, heads, persisted.map(toField));
    },

    countBacklog: async (shard) => Number(await redis.get(waitingKey(shard))),

    async readWaiting(shard) {
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
        do cursor = await scripts.opmSweep(1, key, cursor, before);
        while (cursor !== '0');
      }
    },
  };
}

const toField = ({ projectId, customerId }: { projectId: number; customerId: string }) => `${projectId}:${customerId}`;

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
