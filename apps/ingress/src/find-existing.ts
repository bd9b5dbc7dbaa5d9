import type { Version } from '@opm/core';
import type { OutagePause } from './outage-pause.js';

type Asked = { customerId: string; version: Version }[];

/** Which of these customers existed before these versions; undefined where PostgreSQL does not say so in time. */
export type FindExisting = (projectId: number, asked: Asked) => Promise<Set<string> | undefined>;

/** Acknowledging must not depend on PostgreSQL: a look-up that fails is an answer too, counted by `onUnknown`. */
export function createFindExisting(deps: {
  findExisting: (projectId: number, asked: Asked) => Promise<Set<string>>;
  pause: OutagePause;
  onUnknown: (entries: number) => void;
}): FindExisting {
  const { findExisting, pause, onUnknown } = deps;
  return async (projectId, asked) => {
    if (asked.length === 0) return new Set();
    const existing = pause.isActive
      ? undefined
      : await pause.run(() => findExisting(projectId, asked)).catch(() => undefined);
    if (!existing) onUnknown(asked.length);
    return existing;
  };
}
