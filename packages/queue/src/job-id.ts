import { randomUUID } from 'node:crypto';
import type { Version } from '@opm/core';
import { claimOf, countSampled } from './backlog-sample.js';
import type { Chunk } from './chunk.js';

/** What a job's id tells of its chunk. */
export type JobSummary = {
  /** The oldest version of its claims. */
  oldest: Version;
  entries: number;
  /** As they count for the projects' backlogs: see `countSampled`. */
  ofProjects: [projectId: number, entries: number][];
};

const FORM = /^(\d+)(?:-(\d+))?((?:-\d+x\d+)*)-[0-9a-f]{8}$/;

/**
 * Such as `1764000000000000-200-7x32-9x16-1f3a9c2e`. BullMQ lists ids without the jobs' data, so what waits can be counted for
 * little. BullMQ drops a job whose id is there already: the random part keeps apart replays that have a version in common.
 */
export function toJobId({ entries }: Chunk): string {
  const oldest = entries.reduce((least, entry) => Math.min(least, claimOf(entry)), Number.MAX_SAFE_INTEGER);
  const counts = [...countSampled(entries)].map(([projectId, count]) => `-${projectId}x${count}`).join('');
  return `${oldest}-${entries.length}${counts}-${randomUUID().slice(0, 8)}`;
}

/**
 * @returns undefined for an id that BullMQ gave, as to jobs of older releases. In those of the last release, such as
 * `1764000000000000-7x200-1f3a9c2e`, the project has all entries.
 */
export function parseJobId(id: string): JobSummary | undefined {
  const [, oldest, entries, counts = ''] = FORM.exec(id) ?? [];
  if (!oldest || !(entries || counts)) return undefined;
  const ofProjects = [...counts.matchAll(/(\d+)x(\d+)/g)].map(([, projectId, count]): [number, number] => [
    Number(projectId),
    Number(count),
  ]);
  return {
    oldest: Number(oldest),
    entries: Number(entries ?? ofProjects.reduce((sum, [, count]) => sum + count, 0)),
    ofProjects,
  };
}
