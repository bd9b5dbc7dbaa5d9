import type { ProjectBacklog } from '@opm/queue';
import type { ProjectActivity, Store } from '@opm/store';
import { toP99Ms } from './status.js';

/**
 * `backlog` is sampled, see `ProjectBacklog`; undefined if the queue did not answer. `limit`: entries per second.
 * `p99Ms`: see `toP99Ms`.
 */
export type ProjectStats = ProjectActivity & {
  backlog: ProjectBacklog | undefined;
  limit: number | null;
  p99Ms: Record<string, number>;
};

/** The projects that were active since then, the busiest first. @throws StoreError */
export async function readProjectStats(
  store: Store,
  since: Date,
  backlogs: Map<number, ProjectBacklog> | undefined,
): Promise<ProjectStats[]> {
  const [projects, active, processes] = await Promise.all([
    store.projects.list(),
    store.activity.projects(since),
    store.activity.processes(),
  ]);
  const limits = new Map(projects.map(({ projectId, rate }) => [projectId, rate]));
  return active.map((own) => ({
    ...own,
    limit: limits.get(own.projectId) ?? null,
    p99Ms: toP99Ms(processes, own.projectId),
    backlog: backlogs && (backlogs.get(own.projectId) ?? { entries: 0, oldestMs: 0 }),
  }));
}
