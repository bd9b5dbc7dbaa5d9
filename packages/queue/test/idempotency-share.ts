import { type Backend, query, withRedis } from '@opm/testkit';

const HOUR_S = 3_600;
const ABOVE_LIMIT = 10 ** 12;

const findCounts = (redisUrl: string, prefix: string, projectId: number) =>
  withRedis(redisUrl, async (redis) => {
    const keys = await redis.keys(`{${prefix}-*}:idempotency-bytes:${projectId}`);
    return (await Promise.all(keys.map((key) => redis.hvals(key)))).flat().map(Number);
  });

/** The counted bytes of a project's stored responses. */
export async function countBytes({ redisUrl, prefix, databaseUrl }: Backend, projectId: number): Promise<number> {
  if (redisUrl !== undefined) return (await findCounts(redisUrl, prefix, projectId)).reduce((a, b) => a + b, 0);
  const text = 'SELECT sum(bytes) AS bytes FROM admission.idempotency_bytes WHERE project_id = $1';
  return Number((await query(databaseUrl, text, [projectId]))[0]?.bytes ?? 0);
}

/** The number of byte counts (Redis: hash fields, PostgreSQL: rows) of a project. */
export async function countRows({ redisUrl, prefix, databaseUrl }: Backend, projectId: number): Promise<number> {
  if (redisUrl !== undefined) return (await findCounts(redisUrl, prefix, projectId)).length;
  const text = 'SELECT FROM admission.idempotency_bytes WHERE project_id = $1';
  return (await query(databaseUrl, text, [projectId])).length;
}

/** Fills a project's limit in every shard with responses that expire now, or that expired `hoursAgo`. */
export async function fillShare(
  { redisUrl, prefix, databaseUrl }: Backend,
  projectId: number,
  { hoursAgo = 0 } = {},
): Promise<void> {
  if (redisUrl === undefined) {
    const text = `
      WITH gone AS (DELETE FROM admission.idempotency_bytes WHERE project_id = $1)
      INSERT INTO admission.idempotency_bytes VALUES ($1, now() + (1 - $2::integer) * interval '1 hour', 100, $3)`;
    await query(databaseUrl, text, [projectId, hoursAgo, ABOVE_LIMIT]);
    return;
  }
  await withRedis(redisUrl, async (redis) => {
    const tags = (await redis.keys(`{${prefix}-*}:*`)).map((key) => key.slice(0, key.indexOf('}') + 1));
    const hour = Math.floor(Date.now() / 1_000 / HOUR_S) - hoursAgo;
    for (const tag of new Set(tags)) {
      const key = `${tag}:idempotency-bytes:${projectId}`;
      await redis.del(key);
      await redis.hset(key, String(hour), ABOVE_LIMIT);
    }
  });
}
