import { GroupCommit, withTimeout } from '@opm/core';
import type { Asked } from '@opm/store';
import type { OutagePause } from './outage-pause.js';

/** Customers of one project. */
type Question = { projectId: number; asked: Omit<Asked, 'projectId'>[] };

/**
 * Which of these customers existed before these versions; undefined where PostgreSQL does not say so in time, that is
 * before the deadline, in ms as `performance.now()` has it.
 */
export type FindExisting = (question: Question & { deadline: number }) => Promise<Set<string> | undefined>;

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

  const lookUps = new GroupCommit<'all', Question, Set<string>>({
    async commit(_, questions) {
      const all: Asked[] = [];
      for (const { projectId, asked } of questions) {
        for (const { customerId, version } of asked) all.push({ projectId, customerId, version });
      }
      const places = await pause.run(() => withTimeout(findExisting(all), timeoutMs));
      let first = 0;
      return questions.map(({ asked }) => {
        const existing = asked.filter((_asked, i) => places.has(first + i));
        first += asked.length;
        return new Set(existing.map(({ customerId }) => customerId));
      });
    },
    maxBatch: MAX_ASKED,
    sizeOf: ({ asked }) => asked.length,
    maxInFlight,
  });

  return async ({ projectId, asked, deadline }) => {
    if (asked.length === 0) return new Set();
    const leftMs = deadline - performance.now();
    const lookUp = () => withTimeout(lookUps.run('all', { projectId, asked }), leftMs).catch(() => undefined);
    const existing = pause.isActive || leftMs <= 0 ? undefined : await lookUp();
    if (!existing) onUnknown(asked.length);
    return existing;
  };
}
