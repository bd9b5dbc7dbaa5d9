import { randomUUID } from 'node:crypto';
import type { Version } from '@opm/core';
import type { Chunk } from './chunk.js';

/** What a job's id tells of its chunk: the oldest version in it, and how many entries each project has there. */
export type JobSummary = { oldest: Version; entries: [projectId: number, entries: number][] };

const FORM = /^(\d+)((?:-\d+x\d+)+)-[0-9a-f]{8}$/;

/**
 * Such as `1764000000000000-7x200-1f3a9c2e`. BullMQ lists ids without the jobs' data, so what waits can be counted for
 * little. BullMQ drops a job whose id is there already: the random part keeps apart replays that have a version in common.
 */
export function toJobId({ projectId, entries }: Chunk): string {
  const oldest = entries.reduce((least, { version }) => Math.min(least, version), Number.MAX_SAFE_INTEGER);
  return `${oldest}-${projectId}x${entries.length}-${randomUUID().slice(0, 8)}`;
}

/** @returns undefined for an id that BullMQ gave, as to jobs of older releases */
export function parseJobId(id: string): JobSummary | undefined {
  const [, oldest, counts] = FORM.exec(id) ?? [];
  if (!oldest || !counts) return undefined;
  const entries = counts
    .slice(1)
    .split('-')
    .map((count): [number, number] => {
      const [projectId, entriesOfProject] = count.split('x');
      return [Number(projectId), Number(entriesOfProject)];
    });
  return { oldest: Number(oldest), entries };
}
