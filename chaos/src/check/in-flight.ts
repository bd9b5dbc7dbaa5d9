import { createEntryQueue, openDashboardQueues, type QueueConfig } from '@opm/queue';
import { query, waitFor, withRedis } from '@opm/testkit';
import { Cluster, type Redis } from 'ioredis';

const DRAIN_TIMEOUT_MS = 10 * 60_000;
/** A scheduled job removes what killed processes left, twice a minute. */
const CLEAR_TIMEOUT_MS = 4 * 60_000;

type ClaimedCustomer = { projectId: number; customerId: string };

/** What is in flight between an acknowledgement and a row. */
export type InFlight = {
  /**
   * Resolves when all jobs are done.
   * @throws Error if a job failed or the jobs are not done within ten minutes
   */
  drain(): Promise<void>;
  /** The customers of these projects who have a claim. */
  readClaims(projectIds: number[]): Promise<ClaimedCustomer[]>;
  /** The entries of all projects that count as waiting. */
  countWaiting(): Promise<number>;
  /**
   * Resolves when these projects have no claims and no entry counts as waiting.
   * @throws Error if that takes more than four minutes
   */
  waitUntilCleared(projectIds: number[]): Promise<void>;
  close(): Promise<void>;
};

export async function openInFlight(queue: QueueConfig): Promise<InFlight> {
  const options = { ...queue, signal: new AbortController().signal, onError: () => {} };
  const dashboard = await openDashboardQueues(options);
  const producer = await createEntryQueue(options);
  /** Retries: on a busy machine the call may exceed the time limit that it has for partners. */
  const load = () => waitFor(() => producer.load(), { description: 'the backlog', timeoutMs: CLEAR_TIMEOUT_MS });
  const countWaiting = async () => (await load()).entries;

  return {
    async drain() {
      const counts: Record<string, number> = {};
      const isOver = async () => {
        for (const entryQueue of dashboard.queues.slice(0, queue.shards)) {
          for (const [state, count] of Object.entries(await entryQueue.getJobCounts())) {
            counts[`${state} in ${entryQueue.name}`] = count;
          }
        }
        const left = Object.entries(counts).filter(([, count]) => count > 0);
        return left.length === 0 || left.some(([state]) => state.startsWith('failed'));
      };
      await waitFor(isOver, { description: 'all jobs to be done', timeoutMs: DRAIN_TIMEOUT_MS }).catch(() => {});
      const left = Object.entries(counts).filter(([, count]) => count > 0);
      if (left.length > 0) throw new Error(`jobs: ${left.map(([state, count]) => `${count} ${state}`).join(', ')}`);
    },
    readClaims: (projectIds) => readClaims(queue, projectIds),
    countWaiting,
    async waitUntilCleared(projectIds) {
      const isCleared = async () => {
        const claims = await readClaims(queue, projectIds);
        return claims.length === 0 && (await countWaiting()) === 0;
      };
      const description = 'the removal of claims and counts';
      await waitFor(isCleared, { description, timeoutMs: CLEAR_TIMEOUT_MS });
    },
    async close() {
      await producer.close();
      await dashboard.close();
    },
  };
}

async function readClaims(
  { redisUrl, prefix, databaseUrl }: QueueConfig,
  projectIds: number[],
): Promise<ClaimedCustomer[]> {
  if (redisUrl === undefined) {
    const read = `SELECT project_id AS "projectId", customer_id AS "customerId" FROM admission.claims
      WHERE project_id = ANY ($1)`;
    return query<ClaimedCustomer>(databaseUrl, read, [projectIds]);
  }
  const claimed: ClaimedCustomer[] = [];
  await forEachMaster(redisUrl, async (redis) => {
    for await (const keys of redis.scanStream({ match: `{${prefix}-*}:claims`, count: 1_000 })) {
      for (const key of keys) {
        for (const field of await redis.hkeys(key)) {
          const [project, customerId = ''] = field.split(':');
          if (projectIds.includes(Number(project))) claimed.push({ projectId: Number(project), customerId });
        }
      }
    }
  });
  return claimed;
}

/** Calls `use` for the single Redis, or for each master of a cluster. */
async function forEachMaster(redisUrl: string, use: (redis: Redis) => Promise<void>): Promise<void> {
  const urls = redisUrl.split(',');
  if (urls.length === 1) return withRedis(redisUrl, use);
  const cluster = new Cluster(urls, { lazyConnect: true }).on('error', () => {});
  try {
    await cluster.connect();
    await Promise.all(cluster.nodes('master').map(use));
  } finally {
    cluster.disconnect();
  }
}
