import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { waitFor } from './wait-for.js';

export interface ProgramOptions {
  /** Its path. */
  program: string;
  args: readonly string[];
  /** Where on loopback it listens once it is up. */
  port: number;
  /** Gets what it writes, behind what is there; quoted where it does not come up. */
  logFile: string;
  /** On top of the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
  /** Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
}

export interface RunningProgram {
  port: number;
  pid: number;
  /** Sends the signal and resolves when it has exited, and another one can start in its place. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Runs a server that is not written in Node, until it is stopped. Throws with its log where it does not come up. */
export async function startProgram(options: ProgramOptions): Promise<RunningProgram> {
  const { program, args, port, logFile, env, detached = false } = options;
  const log = await open(logFile, 'a');
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', log.fd, log.fd], detached });
  await once(child, 'spawn').finally(() => log.close());
  const exited = once(child, 'exit');
  const hasExited = () => child.exitCode !== null || child.signalCode !== null;

  await waitFor(() => hasExited() || isListening(port), { description: `${program} to listen` });
  if (hasExited()) throw new Error(`${program} did not start: ${await readFile(logFile, 'utf8')}`);
  return {
    port,
    pid: child.pid as number,
    async stop(signal = 'SIGTERM') {
      if (!hasExited()) child.kill(signal);
      await exited;
      // A child that Redis has made to save its data outlives it for a moment, with the port and the lock on its files.
      await waitFor(async () => !(await isListening(port)), { description: `${program} to let go of its port` });
    },
  };
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
