import { GroupCommit, withTimeout } from '@opm/core';
import type { ExistenceQuery } from '@opm/store';
import type { CircuitBreaker } from './circuit-breaker.js';

/**
 * Resolves with the list positions of the customers that existed before the given versions, or with undefined if
 * PostgreSQL does not answer before the deadline (`performance.now()`, ms). Never rejects.
 */
export type FindExisting = (queries: ExistenceQuery[], deadline: number) => Promise<Set<number> | undefined>;

const MAX_QUERIES = 1_000;

/**
 * Concurrent look-ups of all chunks share one query. A failed look-up is not an error, because an acknowledgement must
 * not depend on PostgreSQL; `onUnknown` counts its entries.
 */
export function createFindExisting(deps: {
  query: (queries: ExistenceQuery[]) => Promise<Set<number>>;
  maxInFlight: number;
  timeoutMs: number;
  breaker: CircuitBreaker;
  onUnknown: (entries: number) => void;
}): FindExisting {
  const { query, maxInFlight, timeoutMs, breaker, onUnknown } = deps;

  const lookUps = new GroupCommit<'all', ExistenceQuery[], Set<number>>({
    async commit(_, calls) {
      const places = await breaker.run(() => withTimeout(query(([] as ExistenceQuery[]).concat(...calls)), timeoutMs));
      let first = 0;
      return calls.map(({ length }) => {
        const own = new Set<number>();
        for (let i = 0; i < length; i++) if (places.has(first + i)) own.add(i);
        first += length;
        return own;
      });
    },
    maxBatch: MAX_QUERIES,
    sizeOf: (queries) => queries.length,
    maxInFlight,
  });

  return async (queries, deadline) => {
    if (queries.length === 0) return new Set();
    const leftMs = deadline - performance.now();
    const lookUp = () => withTimeout(lookUps.run('all', queries), leftMs).catch(() => undefined);
    const existing = breaker.isOpen || leftMs <= 0 ? undefined : await lookUp();
    if (!existing) onUnknown(queries.length);
    return existing;
  };
}
