import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findFreePort, startEmbeddedPostgres } from '@opm/embedded';
import { findRedisProgram } from './find-redis-program.js';
import type { Server } from './provision-servers.js';
import { waitFor } from './wait-for.js';

const REDIS_FLAGS = ['--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--maxmemory-policy', 'noeviction'];

export async function startLocalPostgres(postgresFlags: readonly string[]): Promise<Server> {
  const directory = await createTemporaryDirectory();
  try {
    const dataDir = join(directory, 'postgres');
    const postgres = await startEmbeddedPostgres({ dataDir, postgresFlags });
    return {
      url: postgres.url,
      stop: async () => {
        await postgres.stop();
        await removeDirectory(directory);
      },
    };
  } catch (error) {
    await removeDirectory(directory);
    throw error;
  }
}

export async function startLocalRedis(): Promise<Server> {
  const program = await findRedisProgram();
  const directory = await createTemporaryDirectory();
  const port = await findFreePort();
  const logFile = join(directory, 'redis.log');
  const place = ['--port', String(port), '--dir', directory, '--logfile', logFile];
  const child = spawn(program, [...place, ...REDIS_FLAGS], { stdio: 'ignore' });
  await once(child, 'spawn');
  const exited = once(child, 'exit');
  const hasExited = () => child.exitCode !== null || child.signalCode !== null;

  await waitFor(() => hasExited() || isListening(port), { description: `${program} to listen` });
  if (hasExited()) throw new Error(`${program} did not start: ${await readFile(logFile, 'utf8')}`);
  return {
    url: `redis://127.0.0.1:${port}`,
    stop: async () => {
      if (!hasExited()) child.kill();
      await exited;
      await removeDirectory(directory);
    },
  };
}

async function createTemporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'opm-test-'));
  await chmod(directory, 0o711); // When we are root, the account that Postgres runs as has to pass through.
  return directory;
}

function removeDirectory(directory: string): Promise<void> {
  return rm(directory, { recursive: true, force: true, maxRetries: 5 });
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    const settle = (isOpen: boolean) => () => {
      socket.destroy();
      resolve(isOpen);
    };
    socket.on('connect', settle(true)).on('error', settle(false));
  });
}
