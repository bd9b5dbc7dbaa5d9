import { execFile } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import getPort from 'get-port';
import { type Binaries, isErrno, type Layout } from './binaries.js';
import type { RunCommand } from './command-runner.js';

interface Installation {
  binaries: Binaries;
  layout: Layout;
  run: RunCommand;
}

const SETTINGS = [
  'listen_addresses=127.0.0.1',
  'unix_socket_directories=',
  'max_connections=200',
  'shared_buffers=256MB',
  'timezone=UTC',
  'log_timezone=UTC',
  'log_checkpoints=off',
];

const MAX_ATTEMPTS = 10;
/** Transient errors: another process took the port, or children of a killed server are still running. */
const TRANSIENT_ERROR = /could not bind|could not create any TCP\/IP sockets|still in use/;
/** Long, because replaying the write-ahead log after a crash may take minutes. */
const START_TIMEOUT_S = '300';
const STOP_TIMEOUT_S = '30';

interface RunningServer {
  port: number;
  pid: number;
}

/** Starts the server in its own session, so Ctrl-C does not reach it. Resolves once it is ready. */
export async function startServer(
  installation: Installation,
  options: { port?: number; postgresFlags?: readonly string[] },
): Promise<RunningServer> {
  const { binaries, layout, run } = installation;
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await findFreePort());
    const flags = [...SETTINGS, `port=${port}`, ...(options.postgresFlags ?? [])]
      .map((setting) => `-c ${setting}`)
      .join(' ');
    const target = ['-D', layout.cluster, '-l', layout.logFile, '-o', flags];
    const { succeeded, output } = await run(binaries.pg_ctl, ['start', '-w', '-t', START_TIMEOUT_S, ...target]);
    if (succeeded) return { port, pid: (await readPid(pidFileOf(layout))) ?? Number.NaN };

    const log = await readLastLines(layout.logFile, 6);
    if (attempt === MAX_ATTEMPTS || !TRANSIENT_ERROR.test(log)) {
      await stopServer(installation);
      throw new Error(`PostgreSQL did not start; ${layout.logFile} ends with:\n${log || output}`);
    }
    await delay(100 * attempt);
  }
}

/**
 * Stops the server that runs on the data directory, and removes a stale pid file that would keep the next one from
 * starting.
 */
export async function stopServer({ binaries, layout, run }: Installation): Promise<void> {
  const pidFile = pidFileOf(layout);
  const pid = await readPid(pidFile);
  if (pid === undefined) return;

  switch (await identify(pid, layout.cluster)) {
    case 'our server':
      for (const mode of ['fast', 'immediate']) {
        const stop = ['stop', '-D', layout.cluster, '-m', mode, '-w', '-t', STOP_TIMEOUT_S];
        const { succeeded } = await run(binaries.pg_ctl, stop);
        if (succeeded || (await identify(pid, layout.cluster)) !== 'our server') return;
      }
      throw new Error(`PostgreSQL (process ${pid}) does not stop; see ${layout.logFile}.`);
    case 'unrelated':
      await rm(pidFile, { force: true });
  }
}

/**
 * Identifies the process of a pid file. The file survives kill -9 and reboots, so its pid may belong to another
 * program.
 */
async function identify(pid: number, cluster: string): Promise<'gone' | 'our server' | 'other server' | 'unrelated'> {
  if (!(pid > 0)) return 'unrelated';
  if (!isAlive(pid)) return 'gone';
  // On Windows, pg_ctl signals through a named pipe that only a PostgreSQL server has.
  if (process.platform === 'win32') return 'our server';
  const commandLine = await readCommandLine(pid);
  if (!/(^|\/)postgres(:| -)/.test(commandLine)) return 'unrelated';
  return commandLine.includes(`-D ${cluster} `) ? 'our server' : 'other server';
}

const pidFileOf = ({ cluster }: Layout) => join(cluster, 'postmaster.pid');

/** @returns undefined without a file; NaN if a crash left the file half-written, without a number */
async function readPid(pidFile: string): Promise<number | undefined> {
  try {
    return Number.parseInt(await readFile(pidFile, 'utf8'), 10);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

async function readLastLines(file: string, count: number): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).trimEnd().split('\n').slice(-count).join('\n');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return '';
    throw error;
  }
}

const CANDIDATES = 20;

/**
 * Finds a free loopback port. Another process may take it before the caller binds it, so the caller must handle
 * EADDRINUSE. The port is random and below the range of outgoing connections, which makes that rare.
 */
export const findFreePort = (): Promise<number> =>
  getPort({ host: '127.0.0.1', port: Array.from({ length: CANDIDATES }, () => randomInt(11_000, 32_000)) });

/** Whether a process, or an unreaped zombie, has this pid. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isErrno(error, 'EPERM');
  }
}

/** Reads the command line of a process. Empty for a zombie or a process that has ended. Does not support Windows. */
export async function readCommandLine(pid: number): Promise<string> {
  try {
    if (process.platform === 'linux') return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ');
    return (await promisify(execFile)('ps', ['-ww', '-o', 'command=', '-p', String(pid)])).stdout;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ESRCH') || !isAlive(pid)) return '';
    throw error;
  }
}
