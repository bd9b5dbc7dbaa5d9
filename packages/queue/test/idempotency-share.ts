import { type Backend, query, withRedis } from '@opm/testkit';
import { toHashTag } from '../src/redis/redis-store.js';

const PERIOD_US = 43_200_000_000;
const FINGERPRINT_LENGTH = 8;
const VERSION_LENGTH = 16;

/** Where a record is stored. */
type Place = { shard: number; shards: number; id: string };

/** Changes the version of a record, and with it the time when it expires. */
export async function changeVersion(backend: Backend, place: Place, version: number): Promise<void> {
  const { redisUrl, databaseUrl, prefix } = backend;
  const { shard, shards, id } = place;
  if (redisUrl === undefined) {
    const text = 'UPDATE admission.idempotency_records SET version = $3 WHERE shard = $1 AND id = $2';
    await query(databaseUrl, text, [shard, Buffer.from(id, 'base64url'), version]);
    return;
  }
  const tag = toHashTag(prefix, shard, shards);
  await withRedis(redisUrl, async (redis) => {
    for (const period of [0, 1, 2]) {
      const value = await redis.hget(`${tag}:keyed:${period}`, id);
      if (value === null) continue;
      await redis.hdel(`${tag}:keyed:${period}`, id);
      const changed = `${value.slice(0, FINGERPRINT_LENGTH)}${version}${value.slice(FINGERPRINT_LENGTH + VERSION_LENGTH)}`;
      const itsPeriod = Math.floor(version / PERIOD_US);
      await redis.hsetnx(`${tag}:keyed:${itsPeriod % 3}`, '', itsPeriod);
      await redis.hset(`${tag}:keyed:${itsPeriod % 3}`, id, changed);
      return;
    }
  });
}

const ABOVE_LIMIT = 10 ** 12;

/**
 * Fills the limit of a project's records in every shard, instead of the bytes that are counted.
 * @param isExpired whether they are counted for a period that is over, so that they no longer matter
 */
export async function fillShare(backend: Backend, projectId: number, { isExpired = false } = {}): Promise<void> {
  const { redisUrl, databaseUrl, prefix } = backend;
  const period = Math.floor((Date.now() * 1_000) / PERIOD_US);
  if (redisUrl === undefined) {
    await query(databaseUrl, 'DELETE FROM admission.idempotency_record_bytes WHERE project_id = $1', [projectId]);
    const text = 'INSERT INTO admission.idempotency_record_bytes (project_id, period, bytes) VALUES ($1, $2, $3)';
    await query(databaseUrl, text, [projectId, isExpired ? period - 3 : period, ABOVE_LIMIT]);
    return;
  }
  await withRedis(redisUrl, async (redis) => {
    const tags = (await redis.keys(`{${prefix}-*}:*`)).map((key) => key.slice(0, key.indexOf('}') + 1));
    for (const tag of new Set(tags)) {
      for (const place of [0, 1, 2]) await redis.hdel(`${tag}:keyed-bytes:${place}`, String(projectId));
      // The place of a period that is over belongs to another period.
      if (!isExpired) await redis.hset(`${tag}:keyed-bytes:${period % 3}`, String(projectId), ABOVE_LIMIT);
    }
  });
}
