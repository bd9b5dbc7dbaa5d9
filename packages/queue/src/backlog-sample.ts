import type { Version } from '@opm/core';

/**
 * Of the entries of a shard, one in 16 counts for its project's backlog, and counts 16: those whose version can be divided by
 * it. So a chunk changes 13 counts at most, however many projects it is of, and the same entry is counted up and down.
 * The error is about four times the square root of the backlog.
 */
export const SAMPLE = 16;

export type Countable = { projectId: number; version: Version; claim?: Version };

/** An entry has its claim, and is counted, by the version that admission gave it. */
export const claimOf = ({ version, claim }: Pick<Countable, 'version' | 'claim'>): Version => claim ?? version;

/** By the last bits of a version, for the remainder of such large numbers is slow. */
export const isSampled = (entry: Pick<Countable, 'version' | 'claim'>): boolean =>
  (claimOf(entry) & (SAMPLE - 1)) === 0;

/** What these entries count, by project. */
export function countSampled(entries: Countable[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const entry of entries) {
    if (isSampled(entry)) counts.set(entry.projectId, (counts.get(entry.projectId) ?? 0) + SAMPLE);
  }
  return counts;
}
