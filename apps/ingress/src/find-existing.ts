import type { Version } from '@opm/core';

type Asked = { customerId: string; version: Version }[];

/** Which of these customers existed before these versions; undefined where PostgreSQL does not say so in time. */
export type FindExisting = (projectId: number, asked: Asked) => Promise<Set<string> | undefined>;

/** After a look-up has failed, the next ones are not made for this long: one partner waits for a timeout, not all. */
const PAUSE_MS = 1_000;

/** Acknowledging must not depend on PostgreSQL: a look-up that fails is an answer too, counted by `onUnknown`. */
export function createFindExisting(deps: {
  findExisting: (projectId: number, asked: Asked) => Promise<Set<string>>;
  onUnknown: (entries: number, error?: unknown) => void;
  now?: () => number;
}): FindExisting {
  const { findExisting, onUnknown, now = Date.now } = deps;
  let pausedUntil = 0;
  return async (projectId, asked) => {
    if (asked.length === 0) return new Set();
    if (now() < pausedUntil) {
      onUnknown(asked.length);
      return undefined;
    }
    try {
      return await findExisting(projectId, asked);
    } catch (error) {
      pausedUntil = now() + PAUSE_MS;
      onUnknown(asked.length, error);
      return undefined;
    }
  };
}
