import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createDatabase, provisionServers, testPrefix, withRedis } from '@opm/testkit';
import { Redis } from 'ioredis';
import pg from 'pg';

export type Place = {
  databaseUrl: string;
  redisUrl: string;
  /** The queue's store; Redis by default. */
  queue?: 'postgres';
  prefix: string;
  /** 1 by default. */
  shards?: number;
  /** Replicas that confirm an entry before its acknowledgement; 0 by default. */
  minReplicas?: number;
  /** The ingress's default if missing. */
  chunksInFlight?: number;
  /** Registers a function to run when the place is released, also after Ctrl-C. The last one registered runs first. */
  onEnd(release: Release): void;
};

export type Servers = {
  databaseUrl: string;
  redisUrl: string;
  /** Calls `run` with a new, migrated database and a unique Redis prefix. Removes both afterwards. */
  inFreshPlace<T>(run: (place: Place) => Promise<T>): Promise<T>;
  stop(): Promise<void>;
};

type Release = () => Promise<unknown>;

/** `bench -- partners` runs six ingresses and six workers beside each other. */
const SERVER_FLAGS = ['max_connections=300'];

const OPM = fileURLToPath(new URL('../../apps/cli/bin/opm.js', import.meta.url));

/**
 * Returns the servers of DATABASE_URL and REDIS_URL; starts missing ones in containers or locally, as durable as in
 * production.
 */
export async function startServers(): Promise<Servers> {
  const provisioning = provisionServers({ postgresFlags: SERVER_FLAGS });
  const releases: Release[] = [async () => (await provisioning).stop()];
  let releasing = Promise.resolve();
  // Releases run one after the other. Otherwise the process could exit before all of them are done.
  const releaseDownTo = (count: number) => {
    releasing = releasing.then(async () => {
      while (releases.length > count) await releases.pop()?.().catch(console.error);
    });
    return releasing;
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    // Not `once`: signal-exit, a dependency of testcontainers, ends the process at once if it finds no other listener.
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

/** Calls `run` with several fresh places of the same servers. */
export async function inFreshPlaces<T>(
  servers: Pick<Servers, 'inFreshPlace'>,
  count: number,
  run: (places: Place[]) => Promise<T>,
  places: Place[] = [],
): Promise<T> {
  if (places.length === count) return run(places);
  return servers.inFreshPlace((place) => inFreshPlaces(servers, count, run, [...places, place]));
}

/**
 * Redis writes to disk within a second, as in most installations, and never rewrites the file, which would disturb a
 * round at random.
 */
export const SETTINGS = { 'auto-aof-rewrite-percentage': '0', appendonly: 'yes', appendfsync: 'everysec' };

function writeToDisk(redisUrl: string): Promise<void> {
  return withRedis(redisUrl, async (redis) => {
    for (const [name, value] of Object.entries(SETTINGS)) await redis.config('SET', name, value);
  });
}

/** As many as PostgreSQL keeps by default (`max_wal_size`). */
const WAL_SEGMENTS = 64;

/**
 * Fills the WAL of a new server. Creating a segment, 16 MiB of zeros, delays all commits by 55 ms, twice a second. A
 * server that has run for a while renames segments that it no longer needs.
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
  // Ctrl-C in a terminal also stops a local Redis; then there is nothing to remove.
  const isThere = await redis.connect().then(
    () => true,
    () => false,
  );
  if (!isThere) return;
  // The project's keys begin with a brace; those of the peers do not.
  for (const match of [`{${prefix}-*`, `${prefix}:*`]) {
    for await (const keys of redis.scanStream({ match, count: 1_000 })) {
      if (keys.length > 0) await redis.unlink(...keys);
    }
  }
  redis.disconnect();
}
