import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Binaries } from './binaries.js';
import type { RunCommand } from './command-runner.js';
import { isErrno } from './errno.js';
import { findFreePort } from './find-free-port.js';
import type { Layout } from './layout.js';
import { isAlive, readCommandLine } from './process-table.js';

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
/** The port was taken meanwhile, or a killed server's children have not all gone yet. */
const PASSING_TROUBLE = /could not bind|could not create any TCP\/IP sockets|still in use/;
/** Replaying the log after a crash may take its time. */
const START_TIMEOUT_S = '300';
const STOP_TIMEOUT_S = '30';

export interface RunningServer {
  port: number;
  pid: number;
}

/** Starts the server, in a session of its own so that Ctrl-C does not reach it, and resolves once it is ready. */
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
    if (attempt === MAX_ATTEMPTS || !PASSING_TROUBLE.test(log)) {
      await stopServer(installation);
      throw new Error(`PostgreSQL did not start; ${layout.logFile} ends with:\n${log || output}`);
    }
    await delay(100 * attempt);
  }
}

/** Stops whatever server runs on the data directory, and clears a pid file that would keep the next from starting. */
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

/** A pid file survives kill -9 and reboots, and its number may belong to any program by now. */
async function identify(pid: number, cluster: string): Promise<'gone' | 'our server' | 'other server' | 'unrelated'> {
  if (!(pid > 0)) return 'unrelated';
  if (!isAlive(pid)) return 'gone';
  // There pg_ctl signals through a named pipe that only a PostgreSQL has.
  if (process.platform === 'win32') return 'our server';
  const commandLine = await readCommandLine(pid);
  if (!/(^|\/)postgres(:| -)/.test(commandLine)) return 'unrelated';
  return commandLine.includes(`-D ${cluster} `) ? 'our server' : 'other server';
}

const pidFileOf = ({ cluster }: Layout) => join(cluster, 'postmaster.pid');

/** NaN when the file is there but holds no number: a crash left it half-written. */
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
