import { crc32 } from 'node:zlib';
import type { Redis } from 'ioredis';
import { type Admission, CLAIM_TTL_MS, type Claim } from '../admission.js';
import { ADMIT, LIMIT_BACKLOG, RELEASE, SETTLE, SWEEP } from './admission-scripts.js';

type Script<Answer> = (keyCount: number, ...keysAndArguments: (string | number)[]) => Promise<Answer>;
type Scripts = {
  opmAdmit: Script<[base: number, backlog: number, ...replaced: (string | null)[]]>;
  opmRelease: Script<void>;
  opmSettle: Script<void>;
  opmLimitBacklog: Script<void>;
  opmSweep: Script<void>;
};

/** Per shard. Up to about a million claims their hashes stay so small that Redis packs them. */
const HASHES = 16_384;
const SWEPT_AT_ONCE = 256;

export function createRedisAdmission(redis: Redis, keyspace: (shard: number) => string): Admission {
  redis.defineCommand('opmAdmit', { lua: ADMIT });
  redis.defineCommand('opmRelease', { lua: RELEASE });
  redis.defineCommand('opmSettle', { lua: SETTLE });
  redis.defineCommand('opmLimitBacklog', { lua: LIMIT_BACKLOG });
  redis.defineCommand('opmSweep', { lua: SWEEP });
  const scripts = redis as unknown as Scripts;
  const backlogKey = (shard: number) => `${keyspace(shard)}:backlog`;
  const claimsKey = (shard: number) => `${keyspace(shard)}:claims:`;

  /** Where the customers' claims are: the keys of their hashes, and their fields in these. */
  function locate(shard: number, projectId: number, customers: { customerId: string }[]) {
    const prefix = claimsKey(shard);
    const fields = customers.map(({ customerId }) => `${projectId}:${customerId}`);
    return { keys: fields.map((field) => prefix + (crc32(field) % HASHES)), fields };
  }

  return {
    async admit(shard, projectId, customers) {
      const { keys, fields } = locate(shard, projectId, customers);
      const [base, backlog, ...replaced] = await scripts.opmAdmit(
        keys.length + 2,
        `${keyspace(shard)}:version`,
        backlogKey(shard),
        ...keys,
        projectId,
        customers.map(({ erase }) => (erase ? 'e' : 'p')).join(''),
        ...fields,
      );
      const admitted = customers.map(({ customerId }, i) => ({
        customerId,
        version: base + i,
        previous: parseMark(replaced[i] ?? null),
      }));
      return { admitted, backlog };
    },

    readmit: (shard, projectId, entries) => redis.hincrby(backlogKey(shard), String(projectId), entries),

    async release(shard, projectId, admitted) {
      const { keys, fields } = locate(shard, projectId, admitted);
      await scripts.opmRelease(
        keys.length + 1,
        backlogKey(shard),
        ...keys,
        projectId,
        ...fields,
        ...admitted.map(({ version }) => version),
        ...admitted.map(({ previous }) => (previous ? toMark(previous) : '')),
      );
    },

    async settle(shard, persisted) {
      const located = persisted.map(({ projectId, entries }) => locate(shard, projectId, entries));
      const keys = located.flatMap((it) => it.keys);
      await scripts.opmSettle(
        keys.length + 1,
        backlogKey(shard),
        ...keys,
        ...located.flatMap(({ fields }) => fields),
        ...persisted.flatMap(({ entries }) => entries.map(({ version }) => version)),
        ...persisted.flatMap(({ projectId, entries }) => [projectId, entries.length]),
      );
    },

    async countBacklog(shard) {
      const counts = await redis.hvals(backlogKey(shard));
      return counts.reduce((sum, count) => sum + Number(count), 0);
    },

    async limitBacklog(shard, maxEntries) {
      await scripts.opmLimitBacklog(1, backlogKey(shard), maxEntries);
    },

    async sweep(shard) {
      const oldest = toMark({ version: (Date.now() - CLAIM_TTL_MS) * 1_000, erased: false });
      for (let first = 0; first < HASHES; first += SWEPT_AT_ONCE) {
        const hashes = Array.from({ length: SWEPT_AT_ONCE }, (_, i) => claimsKey(shard) + (first + i));
        await Promise.all(hashes.map((key) => scripts.opmSweep(1, key, oldest)));
      }
    },
  };
}

/** A claim as it is stored: see the scripts. */
const toMark = ({ version, erased }: Claim): string => String(2 * version + (erased ? 1 : 0));

function parseMark(mark: string | null): Claim | undefined {
  if (mark === null) return undefined;
  const erased = Number(mark) % 2;
  return { version: (Number(mark) - erased) / 2, erased: erased === 1 };
}
