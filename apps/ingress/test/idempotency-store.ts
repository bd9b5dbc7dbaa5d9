import { type Backend, query, withRedis } from '@opm/testkit';

/** Reads the stored responses of all idempotency keys as text, and the ms until they expire. */
export async function readKeys({
  redisUrl,
  prefix,
  databaseUrl,
}: Backend): Promise<{ text: string; leftMs: number }[]> {
  if (redisUrl === undefined) {
    return query(
      databaseUrl,
      `SELECT k::text AS text, extract(epoch FROM expires_at - now())::float * 1000 AS "leftMs" FROM admission.idempotency_keys k`,
    );
  }
  return withRedis(redisUrl, async (redis) => {
    const keys = await redis.keys(`{${prefix}-*}:idempotency:*`);
    const read = async (key: string) => ({ text: `${key} ${await redis.get(key)}`, leftMs: await redis.pttl(key) });
    return Promise.all(keys.map(read));
  });
}

/** Makes all stored responses expire in `leftMs` from now; by default they are expired at once. */
export async function expireKeys({ redisUrl, prefix, databaseUrl }: Backend, leftMs = 0): Promise<void> {
  if (redisUrl === undefined) {
    const text = 'UPDATE admission.idempotency_keys SET expires_at = now() + $1::interval';
    await query(databaseUrl, text, [`${leftMs} milliseconds`]);
    return;
  }
  await withRedis(redisUrl, async (redis) => {
    for (const key of await redis.keys(`{${prefix}-*}:idempotency:*`)) await redis.pexpire(key, leftMs);
  });
}
