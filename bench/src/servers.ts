import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createDatabase, provisionServers, testPrefix, withRedis } from '@opm/testkit';
import { Redis } from 'ioredis';
import pg from 'pg';

export type Place = {
  databaseUrl: string;
  redisUrl: string;
  /** Where the queue is; in Redis unless given. */
  queue?: 'postgres';
  prefix: string;
  /** 1 unless given. */
  shards?: number;
  /** Replicas that confirm what is acknowledged; 0 unless given. */
  minReplicas?: number;
  /** The ingress's default unless given. */
  chunksInFlight?: number;
  /** Is run when the place is given up, the last one first, also at Ctrl-C. */
  onEnd(release: Release): void;
};

export type Servers = {
  databaseUrl: string;
  redisUrl: string;
  /** Runs with a fresh, migrated database and a prefix that nobody else uses on Redis. Nothing is left of either. */
  inFreshPlace<T>(run: (place: Place) => Promise<T>): Promise<T>;
  stop(): Promise<void>;
};

type Release = () => Promise<unknown>;

const OPM = fileURLToPath(new URL('../../apps/cli/bin/opm.js', import.meta.url));

/** The servers of DATABASE_URL and REDIS_URL, else containers, else local ones; ours keep what they are given, as in production. */
export async function startServers(): Promise<Servers> {
  const provisioning = provisionServers({ postgresFlags: [] });
  const releases: Release[] = [async () => (await provisioning).stop()];
  let releasing = Promise.resolve();
  // One after the other, or the end of the process could overtake what is still being released.
  const releaseDownTo = (count: number) => {
    releasing = releasing.then(async () => {
      while (releases.length > count) await releases.pop()?.().catch(console.error);
    });
    return releasing;
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    // Not `once`: signal-exit, which comes with testcontainers, ends the process at once where it finds no other listener.
    process.on(signal, () => releaseDownTo(0).finally(() => process.exit(1)));
  }
  process.on('uncaughtException', (error) => {
    console.error(error);
    releaseDownTo(0).finally(() => process.exit(1));
  });
  const { databaseUrl, redisUrl } = await provisioning;
  if (!process.env.REDIS_URL) await writeToDisk(redisUrl);
  if (!process.env.DATABASE_URL) await makeLogSegments(databaseUrl);
  return {
    databaseUrl,
    redisUrl,
    async inFreshPlace(run) {
      const before = releases.length;
      const prefix = testPrefix();
      try {
        const database = await createDatabase({ adminUrl: databaseUrl });
        releases.push(database.drop, () => removeKeys(redisUrl, prefix));
        const env = { ...process.env, DATABASE_URL: database.url };
        await promisify(execFile)(process.execPath, [OPM, 'migrate'], { env });
        const onEnd = (release: Release) => void releases.push(release);
        return await run({ databaseUrl: database.url, redisUrl, prefix, onEnd });
      } finally {
        await releaseDownTo(before);
      }
    },
    stop: () => releaseDownTo(0),
  };
}

/** To disk within a second, as most have it; the file is not rewritten meanwhile, which would come at a moment of its own. */
export const SETTINGS = { 'auto-aof-rewrite-percentage': '0', appendonly: 'yes', appendfsync: 'everysec' };

function writeToDisk(redisUrl: string): Promise<void> {
  return withRedis(redisUrl, async (redis) => {
    for (const [name, value] of Object.entries(SETTINGS)) await redis.config('SET', name, value);
  });
}

/** As many as PostgreSQL keeps by default, `max_wal_size`. */
const WAL_SEGMENTS = 64;

/**
 * A new server has to make each segment of its log, 16 MiB of zeros, and all commits wait for that, 55 ms twice a second. One
 * that has been up for a while renames those that it does not need any more.
 */
async function makeLogSegments(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    for (let i = 0; i < WAL_SEGMENTS; i++) {
      await client.query("SELECT pg_logical_emit_message(false, 'bench', '')");
      await client.query('SELECT pg_switch_wal()');
    }
    await client.query('CHECKPOINT');
  } finally {
    await client.end();
  }
}

async function removeKeys(redisUrl: string, prefix: string): Promise<void> {
  const redis = new Redis(redisUrl, { lazyConnect: true, retryStrategy: () => null }).on('error', () => {});
  // Ctrl-C in a terminal reaches a Redis of our own, too, and then there is nothing to remove.
  const isThere = await redis.connect().then(
    () => true,
    () => false,
  );
  if (!isThere) return;
  // The project's keys stand in braces, those of the peers do not.
  for (const match of [`{${prefix}-*`, `${prefix}:*`]) {
    for await (const keys of redis.scanStream({ match, count: 1_000 })) {
      if (keys.length > 0) await redis.unlink(...keys);
    }
  }
  redis.disconnect();
}
