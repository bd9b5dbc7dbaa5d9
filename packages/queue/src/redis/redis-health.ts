import { withTimeout } from '@opm/core';
import { Cluster, type Redis } from 'ioredis';
import { mastersOf } from './connect-redis.js';
import type { RedisClient } from './ioredis-workarounds.js';

/** Timeout per node, so that a hanging node does not hide the results of the others. */
const NODE_TIMEOUT_MS = 1_000;
const MIN_MAJOR = 7;
const NO_APPEND_ONLY_FILE = 'Redis has no append-only file (appendonly is off): a crash loses acknowledged entries';

/** Sections of INFO. `default` includes `memory`. */
type Section = 'default' | 'memory';

/** A node's INFO fields by name; undefined for a field that is missing, as in some hosted services. */
type Info = (name: string) => string | undefined;

/**
 * Checks that Redis answers, is new enough, and evicts no keys. Resolves to a warning if some masters of a cluster do
 * not answer (the shards of the others still work) or if a master has no append-only file.
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
  const unreachable =
    failure && `${failures.length} of ${infos.length + failures.length} masters do not answer: ${failure.message}`;
  const isVolatile = infos.some((info) => info('aof_enabled') === '0');
  return [unreachable, isVolatile && NO_APPEND_ONLY_FILE].filter(Boolean).join('; ') || undefined;
}

/**
 * Reads the memory use. `use`: used fraction of the fullest master that answers, 0 to 1. `limit`: the smallest limit
 * of a master times the number of masters, in bytes. Both are 0 if no master has a limit.
 * @throws the error of the first master, if none answers
 */
export async function readMemory(redis: RedisClient): Promise<{ use: number; limit: number }> {
  const { infos } = await readMasters(redis, 'memory');
  const limits = infos.map(toLimit).filter((limit) => limit > 0);
  const limit = limits.length > 0 ? Math.min(...limits) * mastersOf(redis).length : 0;
  return { use: Math.max(...infos.map(toUse)), limit };
}

/** @throws the error of the first master, if none answers */
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

/**
 * Requires Redis 7.0. Older versions do not support script flags: while memory is full, scripts that free memory would
 * fail, and scripts that need memory would run. Valkey reports version 7.2.4.
 */
export function assertNewEnough(version: string | undefined): void {
  if (version !== undefined && Number.parseInt(version, 10) < MIN_MAJOR) {
    throw new Error(`Redis must be ${MIN_MAJOR}.0 or newer, not ${version}`);
  }
}

function assertKeepsAll(policy: string | undefined): void {
  if (policy !== undefined && policy !== 'noeviction') {
    throw new Error(`Redis must have maxmemory-policy noeviction, not ${policy}: it may drop acknowledged entries`);
  }
}

/** A single cluster node serves only the keys of its own slots. */
function assertStandsAlone(clusterEnabled: string | undefined): void {
  if (clusterEnabled === '1') {
    throw new Error('REDIS_URL names a single node of a Redis Cluster: name two or more, separated by commas');
  }
}

async function readInfo(node: Redis, section: Section): Promise<Info> {
  const info = await withTimeout(node.info(section), NODE_TIMEOUT_MS);
  return (name) => new RegExp(`^${name}:(\\S+)`, 'm').exec(info)?.[1];
}
