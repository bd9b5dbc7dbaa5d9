import type { Redis } from 'ioredis';
import { type Admission, CLAIM_TTL_MS, type Claim } from '../admission.js';
import { ADMIT, RELEASE, SETTLE } from './admission-scripts.js';

type Scripts = {
  opmAdmit(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<[number, ...(string | null)[]]>;
  opmRelease(keyCount: number, ...keysAndArguments: string[]): Promise<void>;
  opmSettle(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<void>;
};

export function createRedisAdmission(redis: Redis, keyspace: (shard: number) => string): Admission {
  redis.defineCommand('opmAdmit', { lua: ADMIT });
  redis.defineCommand('opmRelease', { lua: RELEASE });
  redis.defineCommand('opmSettle', { lua: SETTLE });
  const scripts = redis as unknown as Scripts;
  const claimKey = (shard: number, projectId: number, customerId: string) =>
    `${keyspace(shard)}:claim:${projectId}:${customerId}`;

  return {
    async admit(shard, projectId, customers) {
      const [base, ...replaced] = await scripts.opmAdmit(
        customers.length + 1,
        `${keyspace(shard)}:version`,
        ...customers.map(({ customerId }) => claimKey(shard, projectId, customerId)),
        CLAIM_TTL_MS,
        customers.map(({ erase }) => (erase ? 'e' : 'p')).join(''),
      );
      return customers.map(({ customerId }, i) => ({
        customerId,
        version: base + i,
        previous: parseMark(replaced[i] ?? null),
      }));
    },

    async release(shard, projectId, admitted) {
      await scripts.opmRelease(
        admitted.length,
        ...admitted.map(({ customerId }) => claimKey(shard, projectId, customerId)),
        ...admitted.map(({ version }) => String(version)),
        ...admitted.map(({ previous }) => (previous ? toMark(previous) : '')),
      );
    },

    async settle(shard, persisted) {
      const keys = persisted.flatMap(({ projectId, entries }) =>
        entries.map(({ customerId }) => claimKey(shard, projectId, customerId)),
      );
      const versions = persisted.flatMap(({ entries }) => entries.map(({ version }) => version));
      await scripts.opmSettle(keys.length, ...keys, ...versions);
    },
  };
}

/** A claim as it is stored: its version, and `p` for present or `e` for erased. */
const toMark = ({ version, erased }: Claim) => `${version}${erased ? 'e' : 'p'}`;

const parseMark = (mark: string | null): Claim | undefined =>
  mark === null ? undefined : { version: Number(mark.slice(0, -1)), erased: mark.endsWith('e') };
