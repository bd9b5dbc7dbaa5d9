import { type ChunkEntry, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';

const MAX_KNOWN = 10_000;
const REMEMBER_MS = 60_000;
const MAX_TRY_MS = 1_000;

export type Suspects = ReturnType<typeof createSuspects>;

type Customer = Pick<ChunkEntry, 'projectId' | 'customerId'>;
type Held = { tries: number; until: number };

/**
 * Entries that no statement with those of others should have, as far as statements have met them: of customers whose rows
 * another session holds, or whose entries have failed by themselves, for whatever reason. A held row is tried again after a delay
 * that doubles, however many entries there are about it, and meanwhile nothing waits for it. And entries of projects that have
 * sent what the database refuses.
 */
export function createSuspects() {
  const options = { max: MAX_KNOWN, ttl: REMEMBER_MS, ttlResolution: 1_000 };
  const customers = new LRUCache<string, Held>(options);
  const projects = new LRUCache<number, true>(options);
  const toKey = ({ projectId, customerId }: Customer) => `${projectId}:${customerId}`;
  const isHeld = (entry: Customer): boolean => customers.size > 0 && customers.has(toKey(entry));

  return {
    isSuspect: (entry: Customer): boolean => isHeld(entry) || (projects.size > 0 && projects.has(entry.projectId)),

    /** Whether its row is held, or it has failed. */
    isHeld,

    /** Whether the customer was met so short a time ago that another try is not due. */
    mustWait: (entry: Customer): boolean => (customers.get(toKey(entry))?.until ?? 0) > performance.now(),

    /** Until it is known what comes of it, no other job tries those whose rows were held. */
    onTry(entries: Customer[]): void {
      if (customers.size === 0) return;
      for (const entry of entries) {
        const held = customers.get(toKey(entry));
        if (held) customers.set(toKey(entry), { ...held, until: performance.now() + MAX_TRY_MS });
      }
    },

    /** @returns how many tries in a row have met it */
    onHeld(entry: Customer): number {
      const key = toKey(entry);
      const tries = (customers.get(key)?.tries ?? 0) + 1;
      customers.set(key, { tries, until: performance.now() + retryDelayMs(tries) });
      return tries;
    },

    onFailed(entry: Customer): void {
      const key = toKey(entry);
      customers.set(key, customers.get(key) ?? { tries: 0, until: 0 });
    },

    onRefused: ({ projectId }: Customer): void => void projects.set(projectId, true),

    onFree(entries: Customer[]): void {
      if (customers.size === 0) return;
      for (const entry of entries) customers.delete(toKey(entry));
    },
  };
}
