import type { Version } from '@opm/core';
import { type Admission, type Claim, type Persisted, toOvertaken } from '../admission.js';
import { ADMIT, LIMIT_BACKLOG, RELEASE, SET_SHARDS, SETTLE, SWEEP } from './admission-scripts.js';
import type { RedisClient } from './connect-redis.js';
import type { HighWaterMark } from './high-water-mark.js';

/** ioredis flattens arrays, which may be longer than what a call of JavaScript can spread. */
type Script<Answer> = (
  keyCount: number,
  ...keysAndArguments: (string | number | (string | number)[])[]
) => Promise<Answer>;
type Scripts = {
  opmAdmit: Script<[base: number, backlog: number, replaced: (string | null)[]] | null>;
  opmRelease: Script<void>;
  opmSettle: Script<void>;
  opmLimitBacklog: Script<void>;
  opmSweep: Script<string>;
  opmSetShards: Script<string>;
};

type RedisAdmissionOptions = {
  keyspaceOf: (shard: number) => string;
  /** What processes find that disagree on how many shards there are. */
  common: string;
  mark: Pick<HighWaterMark, 'atStart' | 'read'>;
};

export function createRedisAdmission(redis: RedisClient, options: RedisAdmissionOptions): Admission {
  const { keyspaceOf, common, mark } = options;
  redis.defineCommand('opmAdmit', { lua: ADMIT });
  redis.defineCommand('opmRelease', { lua: RELEASE });
  redis.defineCommand('opmSettle', { lua: SETTLE });
  redis.defineCommand('opmLimitBacklog', { lua: LIMIT_BACKLOG });
  redis.defineCommand('opmSweep', { lua: SWEEP });
  redis.defineCommand('opmSetShards', { lua: SET_SHARDS });
  const scripts = redis as unknown as Scripts;
  const shardsKey = `${common}:shards`;
  const versionKey = (shard: number) => `${keyspaceOf(shard)}:version`;
  const backlogKey = (shard: number) => `${keyspaceOf(shard)}:backlog`;
  const claimsKey = (shard: number) => `${keyspaceOf(shard)}:claims`;
  const erasuresKey = (shard: number) => `${keyspaceOf(shard)}:pending-erasures`;
  /** The newest versions that this process was given, by shard. */
  const newest = new Map<number, Version>();

  return {
    setShards: async (shards, instead = 0) => Number(await scripts.opmSetShards(1, shardsKey, shards, instead)),

    async readShards() {
      const shards = await redis.get(shardsKey);
      return shards === null ? undefined : Number(shards);
    },

    async admit(shard, projectId, customers) {
      const keys = [versionKey(shard), backlogKey(shard), claimsKey(shard), erasuresKey(shard)];
      const erases = customers.some(({ erase }) => erase) ? customers.map(({ erase }) => (erase ? 1 : 0)).join('') : '';
      const fields = toFields(projectId, customers);
      const admitAbove = (version: Version, isAboveRows: boolean) =>
        scripts.opmAdmit(4, keys, projectId, erases, version, isAboveRows ? 1 : 0, fields);
      // A shard that was left for other ones, or for another store, may have an old version: hence the mark at the start.
      const known = newest.get(shard) ?? (await mark.atStart);
      const answer =
        (known !== undefined && (await admitAbove(known, false))) ||
        (await admitAbove(Math.max(await mark.read(), known ?? 0), true));
      if (!answer) throw new Error('the store gave no versions above the high-water mark');
      const [base, backlog, replaced] = answer;
      newest.set(shard, Math.max(base + customers.length - 1, newest.get(shard) ?? 0));
      const admitted = customers.map(({ customerId }, i) => ({
        customerId,
        version: base + i,
        previous: parseMark(replaced[i] ?? null),
      }));
      return { admitted, backlog };
    },

    async readClaims(shard, projectId, customers) {
      if (customers.length === 0) return [];
      const fields = toFields(projectId, customers);
      const [marks, erasures] = await Promise.all([
        redis.hmget(claimsKey(shard), ...fields),
        redis.hmget(erasuresKey(shard), ...fields),
      ]);
      return marks.map((mark, i) => parseMark(mark) ?? toOvertaken(parseMark(erasures[i] ?? null)));
    },

    readmit: (shard, projectId, entries) => redis.hincrby(backlogKey(shard), String(projectId), entries),

    async release(shard, projectId, admitted) {
      const entries = admitted.flatMap(({ customerId, version, previous }) => [
        toField(projectId, customerId),
        version,
        previous ? toMark(previous) : '',
      ]);
      await scripts.opmRelease(3, backlogKey(shard), claimsKey(shard), erasuresKey(shard), projectId, entries);
    },

    async settle(shard, persisted) {
      const runs = persisted.flatMap(toRuns);
      const heads = runs.flatMap(({ projectId, entries, newest }) => [projectId, entries, newest]);
      const fields = persisted.flatMap(({ projectId, entries }) => toFields(projectId, entries));
      await scripts.opmSettle(3, backlogKey(shard), claimsKey(shard), erasuresKey(shard), runs.length, heads, fields);
    },

    async countBacklog(shard) {
      const counts = await redis.hvals(backlogKey(shard));
      return counts.reduce((sum, count) => sum + Number(count), 0);
    },

    async limitBacklog(shard, most, others) {
      await scripts.opmLimitBacklog(1, backlogKey(shard), others, [...most].flat());
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

const toField = (projectId: number, customerId: string) => `${projectId}:${customerId}`;

const toFields = (projectId: number, customers: { customerId: string }[]) =>
  customers.map(({ customerId }) => toField(projectId, customerId));

/** The entries' runs of versions that follow one another: of a chunk from the ingress, one. */
function toRuns({ projectId, entries }: Persisted): { projectId: number; entries: number; newest: number }[] {
  const runs: ReturnType<typeof toRuns> = [];
  for (const { version } of entries) {
    const run = runs.at(-1);
    if (run && version === run.newest + 1) {
      run.entries++;
      run.newest = version;
    } else runs.push({ projectId, entries: 1, newest: version });
  }
  return runs;
}

/** A claim as it is stored: see the scripts. */
const toMark = ({ version, erased }: Claim): string => String(2 * version + (erased ? 1 : 0));

function parseMark(mark: string | null): Claim | undefined {
  if (mark === null) return undefined;
  const erased = Number(mark) % 2;
  return { version: (Number(mark) - erased) / 2, erased: erased === 1 };
}
