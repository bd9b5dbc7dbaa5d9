import { GroupCommit, withTimeout } from '@opm/core';
import type { Asked } from '@opm/store';
import type { OutagePause } from './outage-pause.js';

/**
 * Which of these customers existed before these versions, by their places in the list; undefined if PostgreSQL does not say so
 * in time, that is before the deadline, in ms as `performance.now()` has it.
 */
export type FindExisting = (asked: Asked[], deadline: number) => Promise<Set<number> | undefined>;

const MAX_ASKED = 1_000;

/**
 * Acknowledging must not depend on PostgreSQL: a look-up that fails is an answer too, counted by `onUnknown`. Chunks of
 * any projects that ask at the same time are looked up together.
 */
export function createFindExisting(deps: {
  findExisting: (asked: Asked[]) => Promise<Set<number>>;
  maxInFlight: number;
  timeoutMs: number;
  pause: OutagePause;
  onUnknown: (entries: number) => void;
}): FindExisting {
  const { findExisting, maxInFlight, timeoutMs, pause, onUnknown } = deps;

  const lookUps = new GroupCommit<'all', Asked[], Set<number>>({
    async commit(_, questions) {
      const places = await pause.run(() => withTimeout(findExisting(([] as Asked[]).concat(...questions)), timeoutMs));
      let first = 0;
      return questions.map(({ length }) => {
        const own = new Set<number>();
        for (let i = 0; i < length; i++) if (places.has(first + i)) own.add(i);
        first += length;
        return own;
      });
    },
    maxBatch: MAX_ASKED,
    sizeOf: (asked) => asked.length,
    maxInFlight,
  });

  return async (asked, deadline) => {
    if (asked.length === 0) return new Set();
    const leftMs = deadline - performance.now();
    const lookUp = () => withTimeout(lookUps.run('all', asked), leftMs).catch(() => undefined);
    const existing = pause.isActive || leftMs <= 0 ? undefined : await lookUp();
    if (!existing) onUnknown(asked.length);
    return existing;
  };
}
