import type { Chunk } from '@opm/queue';
import { LRUCache } from 'lru-cache';

export type HeldCustomers = {
  /** Whether the chunk is about one of them. */
  isAbout(chunk: Chunk): boolean;
  /** @param held those of the chunk's customers whose rows somebody holds now */
  note(chunk: Chunk, held: Set<string>): void;
};

const MAX_KNOWN = 10_000;
const REMEMBER_MS = 5_000;

/** The customers whose rows somebody held a moment ago: no statement with entries of others should wait for them again. */
export function createHeldCustomers(): HeldCustomers {
  const known = new LRUCache<string, true>({ max: MAX_KNOWN, ttl: REMEMBER_MS });
  const toKey = (projectId: number, customerId: string) => `${projectId}:${customerId}`;
  return {
    isAbout: ({ projectId, entries }) =>
      known.size > 0 && entries.some(({ customerId }) => known.has(toKey(projectId, customerId))),
    note({ projectId, entries }, held) {
      for (const { customerId } of entries) {
        const key = toKey(projectId, customerId);
        if (held.has(customerId)) known.set(key, true);
        else known.delete(key);
      }
    },
  };
}
