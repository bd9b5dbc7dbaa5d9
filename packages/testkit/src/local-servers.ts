import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findFreePort, startEmbeddedPostgres } from '@opm/embedded';
import { findRedisProgram } from './find-redis-program.js';
import type { Server } from './provision-servers.js';
import { type RunningProgram, startProgram } from './start-program.js';

export interface LocalRedisOptions {
  /** Where it keeps its files; stays when it stops. */
  directory: string;
  /** A free one where it is not given. */
  port?: number;
  /** On top of listening on loopback only, and refusing what does not fit its memory. */
  flags: readonly string[];
  /** On top of the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
  /** Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
  /** What can be done where there is no Redis on this machine, completing "…, or". */
  alternative?: string;
}

export interface LocalRedis extends RunningProgram {
  url: string;
}

const REDIS_FLAGS = ['--bind', '127.0.0.1', '--save', '', '--maxmemory-policy', 'noeviction'];

/** Runs the Redis of this machine; root on Debian gets it installed. Throws with its log where it does not come up. */
export async function startLocalRedis({
  directory,
  port,
  flags,
  env,
  detached = false,
  alternative,
}: LocalRedisOptions): Promise<LocalRedis> {
  const program = await findRedisProgram(alternative);
  const chosen = port ?? (await findFreePort());
  const logFile = join(directory, 'redis.log');
  const place = ['--port', String(chosen), '--dir', directory];
  const args = [...place, ...REDIS_FLAGS, ...flags];
  const running = await startProgram({ program, args, port: chosen, logFile, env, detached });
  return { ...running, url: `redis://127.0.0.1:${chosen}` };
}

/** One that forgets everything. */
export async function startTemporaryRedis(): Promise<Server> {
  return startTemporary(async (directory) => {
    const { url, stop } = await startLocalRedis({
      directory,
      flags: ['--appendonly', 'no'],
      alternative: 'start Docker, or set REDIS_URL',
    });
    return { url, stop: () => stop() };
  });
}

export function startTemporaryPostgres(postgresFlags: readonly string[]): Promise<Server> {
  return startTemporary((directory) => startEmbeddedPostgres({ dataDir: join(directory, 'postgres'), postgresFlags }));
}

/** A server in a directory that goes when it stops. */
async function startTemporary(start: (directory: string) => Promise<Server>): Promise<Server> {
  const directory = await mkdtemp(join(tmpdir(), 'opm-test-'));
  const remove = () => rm(directory, { recursive: true, force: true, maxRetries: 5 });
  try {
    await chmod(directory, 0o711); // When we are root, the account that Postgres runs as has to pass through.
    const { url, stop } = await start(directory);
    return { url, stop: () => stop().then(remove) };
  } catch (error) {
    await remove();
    throw error;
  }
}
