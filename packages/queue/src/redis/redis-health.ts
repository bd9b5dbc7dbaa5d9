import { withTimeout } from '@opm/core';
import { Cluster, type Redis } from 'ioredis';
import { mastersOf, type RedisClient } from './connect-redis.js';

/** A node that is gone without a word must not keep those that ask from hearing of the others. */
const NODE_TIMEOUT_MS = 1_000;

/** What a node says of itself, by name; undefined for what it leaves out, as some hosted ones do. */
type Info = (name: string) => string | undefined;

/**
 * Resolves when the store answers, and none of its masters may drop what it has. While some of a cluster's masters do not
 * answer, the shards of the others go on: it resolves with a word on that.
 * @throws Error that says what to change
 */
export async function checkRedis(redis: RedisClient): Promise<string | undefined> {
  if (redis.status !== 'ready') throw new Error(`Redis is not connected (${redis.status})`);
  if (!(redis instanceof Cluster)) await assertStandsAlone(redis);
  const { memories, failures } = await readMemories(redis);
  for (const memory of memories) assertKeepsAll(memory('maxmemory_policy'));
  const [failure] = failures;
  if (!failure) return undefined;
  return `${failures.length} of ${memories.length + failures.length} masters do not answer: ${failure.message}`;
}

/** Of the fullest master that answers, 0 to 1; 0 where none has a limit. @throws the reason where none answers */
export async function readMemoryUse(redis: RedisClient): Promise<number> {
  const { memories } = await readMemories(redis);
  return Math.max(...memories.map(toUse));
}

/** @throws the reason where no master answers */
async function readMemories(redis: RedisClient): Promise<{ memories: Info[]; failures: Error[] }> {
  const answers = await Promise.allSettled(mastersOf(redis).map((node) => readInfo(node, 'memory')));
  const memories = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  const failures: Error[] = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason] : []));
  if (memories.length === 0) throw failures[0] ?? new Error('no master of the Redis Cluster is known');
  return { memories, failures };
}

function toUse(memory: Info): number {
  const limit = Number(memory('maxmemory') ?? 0);
  return limit === 0 ? 0 : Number(memory('used_memory')) / limit;
}

function assertKeepsAll(policy: string | undefined): void {
  if (policy !== undefined && policy !== 'noeviction') {
    throw new Error(`Redis must have maxmemory-policy noeviction, not ${policy}: it may drop acknowledged entries`);
  }
}

/** A node of a cluster serves the keys of its own slots only. */
async function assertStandsAlone(redis: Redis): Promise<void> {
  const cluster = await readInfo(redis, 'cluster');
  if (cluster('cluster_enabled') === '1') {
    throw new Error('REDIS_URL names a single node of a Redis Cluster: name two or more, with commas between them');
  }
}

async function readInfo(node: Redis, section: 'memory' | 'cluster'): Promise<Info> {
  const info = await withTimeout(node.info(section), NODE_TIMEOUT_MS);
  return (name) => new RegExp(`^${name}:(\\S+)`, 'm').exec(info)?.[1];
}
