import type { Redis } from 'ioredis';
import { type Admission, CLAIM_TTL_MS, type Claim } from '../admission.js';
import { ADMIT, RELEASE, SETTLE } from './admission-scripts.js';

type Scripts = {
  opmAdmit(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<[number, number, ...(string | null)[]]>;
  opmRelease(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<void>;
  opmSettle(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<void>;
};

export function createRedisAdmission(redis: Redis, keyspace: (shard: number) => string): Admission {
  redis.defineCommand('opmAdmit', { lua: ADMIT });
  redis.defineCommand('opmRelease', { lua: RELEASE });
  redis.defineCommand('opmSettle', { lua: SETTLE });
  const scripts = redis as unknown as Scripts;
  const claimKeys = (shard: number, projectId: number, customers: { customerId: string }[]) => {
    const prefix = `${keyspace(shard)}:claim:${projectId}:`;
    return customers.map(({ customerId }) => prefix + customerId);
  };
  const backlogKey = (shard: number) => `${keyspace(shard)}:backlog`;

  return {
    async admit(shard, projectId, customers) {
      const [base, backlog, ...replaced] = await scripts.opmAdmit(
        customers.length + 2,
        `${keyspace(shard)}:version`,
        backlogKey(shard),
        ...claimKeys(shard, projectId, customers),
        projectId,
        CLAIM_TTL_MS,
        customers.map(({ erase }) => (erase ? 'e' : 'p')).join(''),
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
      await scripts.opmRelease(
        admitted.length + 1,
        backlogKey(shard),
        ...claimKeys(shard, projectId, admitted),
        projectId,
        ...admitted.map(({ version }) => String(version)),
        ...admitted.map(({ previous }) => (previous ? toMark(previous) : '')),
      );
    },

    async settle(shard, persisted) {
      const keys = persisted.flatMap(({ projectId, entries }) => claimKeys(shard, projectId, entries));
      const versions = persisted.flatMap(({ entries }) => entries.map(({ version }) => version));
      const counts = persisted.flatMap(({ projectId, entries }) => [projectId, entries.length]);
      await scripts.opmSettle(keys.length + 1, backlogKey(shard), ...keys, ...versions, ...counts);
    },

    async countBacklog(shard) {
      const counts = await redis.hvals(backlogKey(shard));
      return counts.reduce((sum, count) => sum + Number(count), 0);
    },

    async resetBacklog(shard) {
      await redis.del(backlogKey(shard));
    },
  };
}

/** A claim as it is stored: its version, and `p` for present or `e` for erased. */
const toMark = ({ version, erased }: Claim) => `${version}${erased ? 'e' : 'p'}`;

const parseMark = (mark: string | null): Claim | undefined =>
  mark === null ? undefined : { version: Number(mark.slice(0, -1)), erased: mark.endsWith('e') };
