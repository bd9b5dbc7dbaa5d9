import { type ChunkEntry, retryDelayMs } from '@opm/queue';
import { LRUCache } from 'lru-cache';

const MAX_QUARANTINED = 10_000;

const QUARANTINE_MS = 60_000;

/** How long one try keeps other jobs from the same locked rows, in ms. */
const MAX_TRY_MS = 1_000;

export type Quarantine = ReturnType<typeof createQuarantine>;

type Customer = Pick<ChunkEntry, 'projectId' | 'customerId'>;

type LockedRow = { tries: number; until: number };

/**
 * Quarantine keeps entries out of shared statements. For one minute it holds
 *
 * - customers whose row another session has locked, or whose entries failed in isolation, for any reason;
 * - projects whose data the database rejected.
 *
 * A locked row is tried again after a delay that doubles, however many entries wait for it. No statement waits for the
 * row in between.
 */
export function createQuarantine() {
  const options = { max: MAX_QUARANTINED, ttl: QUARANTINE_MS, ttlResolution: 1_000 };
  const customers = new LRUCache<string, LockedRow>(options);
  const projects = new LRUCache<number, true>(options);
  const toKey = ({ projectId, customerId }: Customer) => `${projectId}:${customerId}`;
  const isCustomerQuarantined = (entry: Customer): boolean => customers.size > 0 && customers.has(toKey(entry));

  return {
    isQuarantined: (entry: Customer): boolean =>
      isCustomerQuarantined(entry) || (projects.size > 0 && projects.has(entry.projectId)),

    /** Whether the customer's row is locked, or its entries failed. */
    isCustomerQuarantined,

    /** Whether the delay before the next try of the customer's locked row has not yet passed. */
    mustWait: (entry: Customer): boolean => (customers.get(toKey(entry))?.until ?? 0) > performance.now(),

    /**
     * Call it before a try. Other jobs skip the locked rows among these customers until it ends, at most MAX_TRY_MS.
     */
    onTry(entries: Customer[]): void {
      if (customers.size === 0) return;
      for (const entry of entries) {
        const row = customers.get(toKey(entry));
        if (row) customers.set(toKey(entry), { ...row, until: performance.now() + MAX_TRY_MS });
      }
    },

    /** @returns the number of consecutive tries that found the row locked */
    onLocked(entry: Customer): number {
      const key = toKey(entry);
      const tries = (customers.get(key)?.tries ?? 0) + 1;
      customers.set(key, { tries, until: performance.now() + retryDelayMs(tries) });
      return tries;
    },

    onFailed(entry: Customer): void {
      const key = toKey(entry);
      customers.set(key, customers.get(key) ?? { tries: 0, until: 0 });
    },

    onRejected: ({ projectId }: Customer): void => void projects.set(projectId, true),

    onPersisted(entries: Customer[]): void {
      if (customers.size === 0) return;
      for (const entry of entries) customers.delete(toKey(entry));
    },
  };
}

/** Divides the items into those that `isMeant` accepts and the others. Copies nothing if it accepts none. */
export function divide<T>(items: T[], isMeant: (item: T) => boolean): [meant: T[], others: T[]] {
  const meant = items.filter(isMeant);
  return [meant, without(items, meant)];
}

/** The items that are not among `others`. Copies nothing if there are no others. */
export function without<T>(items: T[], others: T[]): T[] {
  if (others.length === 0) return items;
  const excluded = new Set(others);
  return items.filter((item) => !excluded.has(item));
}
