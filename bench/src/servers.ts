import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createDatabase, provisionServers, type TestDatabase, testPrefix } from '@opm/testkit';

export type Place = { databaseUrl: string; redisUrl: string; prefix: string };

export type Servers = {
  /** Runs with a fresh, migrated database and a prefix that nobody else uses on Redis. */
  inFreshPlace<T>(run: (place: Place) => Promise<T>): Promise<T>;
  stop(): Promise<void>;
};

const OPM = fileURLToPath(new URL('../../apps/cli/bin/opm.js', import.meta.url));

/** The servers of DATABASE_URL and REDIS_URL, else containers, else local ones, as the tests have them. */
export async function startServers(): Promise<Servers> {
  const servers = await provisionServers();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => servers.stop().finally(() => process.exit(1)));
  }
  return {
    async inFreshPlace(run) {
      const database: TestDatabase = await createDatabase({ adminUrl: servers.databaseUrl });
      try {
        const env = { ...process.env, DATABASE_URL: database.url };
        await promisify(execFile)(process.execPath, [OPM, 'migrate'], { env });
        return await run({ databaseUrl: database.url, redisUrl: servers.redisUrl, prefix: testPrefix() });
      } finally {
        await database.drop();
      }
    },
    stop: servers.stop,
  };
}
