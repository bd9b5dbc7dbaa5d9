import { crc32 } from 'node:zlib';
import { Packr } from 'msgpackr';
import type { Admission, Claim } from '../admission.js';
import { ADMIT, LIMIT_BACKLOG, RELEASE, SETTLE, SWEEP } from './admission-scripts.js';
import type { RedisClient } from './connect-redis.js';

type Script<Answer> = (keyCount: number, ...keysAndArguments: (string | number | Buffer)[]) => Promise<Answer>;
type Scripts = {
  opmAdmit: Script<[base: number, backlog: number, ...replaced: (string | null)[]]>;
  opmRelease: Script<void>;
  opmSettle: Script<void>;
  opmLimitBacklog: Script<void>;
  opmSweep: Script<void>;
};

/** Per shard. Up to about a million claims their hashes stay so small that Redis packs them. */
const HASHES = 16_384;
const SWEPT_AT_ONCE = 128;

const packr = new Packr({ useRecords: false }); // its own extension, which others cannot read

export function createRedisAdmission(redis: RedisClient, keyspace: (shard: number) => string): Admission {
  redis.defineCommand('opmAdmit', { lua: ADMIT });
  redis.defineCommand('opmRelease', { lua: RELEASE });
  redis.defineCommand('opmSettle', { lua: SETTLE });
  redis.defineCommand('opmLimitBacklog', { lua: LIMIT_BACKLOG });
  redis.defineCommand('opmSweep', { lua: SWEEP });
  const scripts = redis as unknown as Scripts;
  const backlogKey = (shard: number) => `${keyspace(shard)}:backlog`;
  const claimsKey = (shard: number) => `${keyspace(shard)}:claims:`;

  /** The entries' columns, as the scripts want them: where their claims are, and the given ones. */
  function pack(fields: string[], ...columns: unknown[][]): Buffer {
    return packr.pack([fields.map(toHash), fields, ...columns]);
  }

  return {
    async admit(shard, projectId, customers) {
      const erases = customers.map(({ erase }) => erase === true);
      const [base, backlog, ...replaced] = await scripts.opmAdmit(
        3,
        `${keyspace(shard)}:version`,
        backlogKey(shard),
        claimsKey(shard),
        projectId,
        pack(toFields(projectId, customers), erases),
      );
      const admitted = customers.map(({ customerId }, i) => ({
        customerId,
        version: base + i,
        previous: parseMark(replaced[i] ?? null),
      }));
      return { admitted, backlog };
    },

    async readClaims(shard, projectId, customers) {
      const fields = toFields(projectId, customers);
      const marks = await Promise.all(fields.map((field) => redis.hget(claimsKey(shard) + toHash(field), field)));
      return marks.map(parseMark);
    },

    readmit: (shard, projectId, entries) => redis.hincrby(backlogKey(shard), String(projectId), entries),

    async release(shard, projectId, admitted) {
      const versions = admitted.map(({ version }) => version);
      const marks = admitted.map(({ previous }) => (previous ? toMark(previous) : ''));
      const packed = pack(toFields(projectId, admitted), versions, marks);
      await scripts.opmRelease(2, backlogKey(shard), claimsKey(shard), projectId, packed);
    },

    async settle(shard, persisted) {
      const fields = persisted.flatMap(({ projectId, entries }) => toFields(projectId, entries));
      const versions = persisted.flatMap(({ entries }) => entries.map(({ version }) => version));
      const counts = persisted.flatMap(({ projectId, entries }) => [projectId, entries.length]);
      await scripts.opmSettle(2, backlogKey(shard), claimsKey(shard), pack(fields, versions), ...counts);
    },

    async countBacklog(shard) {
      const counts = await redis.hvals(backlogKey(shard));
      return counts.reduce((sum, count) => sum + Number(count), 0);
    },

    async limitBacklog(shard, maxEntries) {
      await scripts.opmLimitBacklog(1, backlogKey(shard), maxEntries);
    },

    async sweep(shard, olderThanMs) {
      for (let first = 0; first < HASHES; first += SWEPT_AT_ONCE) {
        const hashes = Array.from({ length: SWEPT_AT_ONCE }, (_, i) => claimsKey(shard) + (first + i));
        await scripts.opmSweep(hashes.length, ...hashes, olderThanMs * 1_000);
      }
    },
  };
}

const toFields = (projectId: number, customers: { customerId: string }[]) =>
  customers.map(({ customerId }) => `${projectId}:${customerId}`);

/** The number of the hash that the field is in; as a text, for Lua is slow to make one of a number. */
const toHash = (field: string): string => String(crc32(field) % HASHES);

/** A claim as it is stored: see the scripts. */
const toMark = ({ version, erased }: Claim): string => String(2 * version + (erased ? 1 : 0));

function parseMark(mark: string | null): Claim | undefined {
  if (mark === null) return undefined;
  const erased = Number(mark) % 2;
  return { version: (Number(mark) - erased) / 2, erased: erased === 1 };
}
