import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createDatabase, provisionServers, testPrefix } from '@opm/testkit';
import { Redis } from 'ioredis';

export type Place = { databaseUrl: string; redisUrl: string; prefix: string };

export type Servers = {
  /** Runs with a fresh, migrated database and a prefix that nobody else uses on Redis. Nothing is left of either. */
  inFreshPlace<T>(run: (place: Place) => Promise<T>): Promise<T>;
  stop(): Promise<void>;
};

const OPM = fileURLToPath(new URL('../../apps/cli/bin/opm.js', import.meta.url));

/** The servers of DATABASE_URL and REDIS_URL, else containers, else local ones, as the tests have them. */
export async function startServers(): Promise<Servers> {
  const servers = await provisionServers();
  let clear = async () => {};
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      clear()
        .finally(servers.stop)
        .finally(() => process.exit(1));
    });
  }
  return {
    async inFreshPlace(run) {
      const database = await createDatabase({ adminUrl: servers.databaseUrl });
      const prefix = testPrefix();
      clear = async () => {
        await database.drop();
        await removeKeys(servers.redisUrl, prefix);
      };
      try {
        const env = { ...process.env, DATABASE_URL: database.url };
        await promisify(execFile)(process.execPath, [OPM, 'migrate'], { env });
        return await run({ databaseUrl: database.url, redisUrl: servers.redisUrl, prefix });
      } finally {
        await clear();
        clear = async () => {};
      }
    },
    stop: servers.stop,
  };
}

async function removeKeys(redisUrl: string, prefix: string): Promise<void> {
  const redis = new Redis(redisUrl);
  // The project's keys stand in braces, those of the peers do not.
  for (const match of [`{${prefix}-*`, `${prefix}:*`]) {
    for await (const keys of redis.scanStream({ match, count: 1_000 })) {
      if (keys.length > 0) await redis.unlink(...keys);
    }
  }
  redis.disconnect();
}
