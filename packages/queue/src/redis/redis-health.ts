import { withTimeout } from '@opm/core';
import { Cluster, type Redis } from 'ioredis';
import { mastersOf, type RedisClient } from './connect-redis.js';

/** A node that is gone without a word must not keep those that ask from hearing of the others. */
const NODE_TIMEOUT_MS = 1_000;
const LEAST_MAJOR = 7;
const NOTHING_ON_DISK =
  'Redis keeps nothing on disk, neither appendonly nor save is set: a restart loses what was acknowledged';

/** The first has the other, and more. */
type Section = 'default' | 'memory';

/** What a node says of itself, by name; undefined for what it leaves out, as some hosted ones do. */
type Info = (name: string) => string | undefined;

/**
 * Resolves when the store answers, is new enough, and none of its masters may drop what it has. While some of a cluster's
 * masters do not answer, the shards of the others go on: it resolves with a word on that, and with one on masters that
 * keep nothing on disk.
 * @throws Error that says what to change
 */
export async function checkRedis(redis: RedisClient): Promise<string | undefined> {
  if (redis.status !== 'ready') throw new Error(`Redis is not connected (${redis.status})`);
  const { infos, failures } = await readMasters(redis, 'default');
  for (const info of infos) {
    if (!(redis instanceof Cluster)) assertStandsAlone(info('cluster_enabled'));
    assertNewEnough(info('redis_version'));
    assertKeepsAll(info('maxmemory_policy'));
  }
  const [failure] = failures;
  const away =
    failure && `${failures.length} of ${infos.length + failures.length} masters do not answer: ${failure.message}`;
  const isForgetful = infos.some((info) => info('aof_enabled') === '0') && (await keepsNothing(redis));
  return [away, isForgetful && NOTHING_ON_DISK].filter(Boolean).join('; ') || undefined;
}

/** Whether a master has neither of the two ways to disk; one that does not tell is taken to have one. */
async function keepsNothing(redis: RedisClient): Promise<boolean> {
  const read = async (node: Redis, name: string) =>
    ((await withTimeout(node.config('GET', name), NODE_TIMEOUT_MS).catch(() => [])) as string[])[1];
  const answers = mastersOf(redis).map(
    async (node) => (await read(node, 'save')) === '' && (await read(node, 'appendonly')) === 'no',
  );
  return (await Promise.all(answers)).includes(true);
}

/**
 * `use` of the fullest master that answers, 0 to 1, and the `limit` of all masters together in bytes, as if each had that of
 * the smallest one; 0 and 0 where none has a limit. @throws the reason where none answers
 */
export async function readMemory(redis: RedisClient): Promise<{ use: number; limit: number }> {
  const { infos } = await readMasters(redis, 'memory');
  const limits = infos.map(toLimit).filter((limit) => limit > 0);
  const limit = limits.length > 0 ? Math.min(...limits) * mastersOf(redis).length : 0;
  return { use: Math.max(...infos.map(toUse)), limit };
}

/** @throws the reason where no master answers */
async function readMasters(redis: RedisClient, section: Section): Promise<{ infos: Info[]; failures: Error[] }> {
  const answers = await Promise.allSettled(mastersOf(redis).map((node) => readInfo(node, section)));
  const infos = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  const failures: Error[] = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason] : []));
  if (infos.length === 0) throw failures[0] ?? new Error('no master of the Redis Cluster is known');
  return { infos, failures };
}

const toLimit = (memory: Info): number => Number(memory('maxmemory') ?? 0);

function toUse(memory: Info): number {
  const limit = toLimit(memory);
  return limit === 0 ? 0 : Number(memory('used_memory')) / limit;
}

/** Older ones know no flags of scripts, so what frees memory would fail, and what takes it would not. Valkey says 7.2.4. */
export function assertNewEnough(version: string | undefined): void {
  if (version !== undefined && Number.parseInt(version, 10) < LEAST_MAJOR) {
    throw new Error(`Redis must be ${LEAST_MAJOR}.0 or newer, not ${version}`);
  }
}

function assertKeepsAll(policy: string | undefined): void {
  if (policy !== undefined && policy !== 'noeviction') {
    throw new Error(`Redis must have maxmemory-policy noeviction, not ${policy}: it may drop acknowledged entries`);
  }
}

/** A node of a cluster serves the keys of its own slots only. */
function assertStandsAlone(clusterEnabled: string | undefined): void {
  if (clusterEnabled === '1') {
    throw new Error('REDIS_URL names a single node of a Redis Cluster: name two or more, with commas between them');
  }
}

async function readInfo(node: Redis, section: Section): Promise<Info> {
  const info = await withTimeout(node.info(section), NODE_TIMEOUT_MS);
  return (name) => new RegExp(`^${name}:(\\S+)`, 'm').exec(info)?.[1];
}
