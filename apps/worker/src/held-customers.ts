import type { CustomerEntry } from '@opm/core';
import { type Chunk, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';

const MAX_KNOWN = 10_000;
const REMEMBER_MS = 60_000;

export type HeldCustomers = ReturnType<typeof createHeldCustomers>;

type Held = { tries: number; until: number };

/**
 * The customers whose rows another session holds, as far as statements have met them. Each is tried again after a delay
 * that doubles, however many entries there are about it, and meanwhile nothing waits for its row. And those whose entries
 * have failed by themselves, for whatever reason: their jobs are tried again as other jobs are.
 */
export function createHeldCustomers() {
  const known = new LRUCache<string, Held>({ max: MAX_KNOWN, ttl: REMEMBER_MS, ttlResolution: 1_000 });
  const toKey = (projectId: number, customerId: string) => `${projectId}:${customerId}`;

  return {
    /** Whether the chunk is about one of them: then no statement with entries of others should have it. */
    isAbout: ({ projectId, entries }: Chunk): boolean =>
      known.size > 0 && entries.some(({ customerId }) => known.has(toKey(projectId, customerId))),

    /** Whether the customer was met so short a time ago that another try is not due. */
    mustWait: (projectId: number, customerId: string): boolean =>
      (known.get(toKey(projectId, customerId))?.until ?? 0) > performance.now(),

    /** @returns how many tries in a row have met it */
    onHeld(projectId: number, customerId: string): number {
      const key = toKey(projectId, customerId);
      const tries = (known.get(key)?.tries ?? 0) + 1;
      known.set(key, { tries, until: performance.now() + retryDelayMs(tries) });
      return tries;
    },

    onFailed(projectId: number, customerId: string): void {
      const key = toKey(projectId, customerId);
      known.set(key, known.get(key) ?? { tries: 0, until: 0 });
    },

    onFree(projectId: number, entries: CustomerEntry[]): void {
      if (known.size === 0) return;
      for (const { customerId } of entries) known.delete(toKey(projectId, customerId));
    },
  };
}
