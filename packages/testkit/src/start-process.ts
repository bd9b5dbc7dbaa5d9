import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { waitFor } from './wait-for.js';

export interface ProcessOptions {
  /** The script that Node runs. */
  file: string;
  args?: readonly string[];
  /** Variables in addition to those of the tests. */
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** The process is ready once a GET of this URL answers 2xx, … */
  readyUrl?: string;
  /** … or once its output matches this; without either, it is ready at once. */
  readyOutput?: RegExp;
  timeoutMs?: number;
  /** Whether it runs in its own process group, so that Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
}

export interface ProcessExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface TestProcess {
  pid: number;
  exited: Promise<ProcessExit>;
  /** Everything that it has written to stdout and stderr so far. */
  output(): string;
  /** Sends the signal and resolves when the process has exited; resolves at once if it already has. */
  stop(signal?: NodeJS.Signals): Promise<ProcessExit>;
}

/** Kills the child when its test runner dies, even by SIGKILL: the IPC channel between them closes. */
const EXIT_WITH_PARENT = `process.on('disconnect', () => process.kill(process.pid, 'SIGKILL')); process.channel.unref();`;

export async function startProcess(options: ProcessOptions): Promise<TestProcess> {
  const { file, args = [], env, cwd, timeoutMs, detached = false } = options;
  const child = spawn(process.execPath, ['--import', `data:text/javascript,${EXIT_WITH_PARENT}`, file, ...args], {
    cwd,
    detached,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  await once(child, 'spawn');

  const exited = once(child, 'close').then(([code, signal]): ProcessExit => ({ code, signal }));
  const hasExited = () => child.exitCode !== null || child.signalCode !== null;
  const started: TestProcess = {
    pid: child.pid as number,
    exited,
    output: () => output,
    stop(signal = 'SIGTERM') {
      if (!hasExited()) child.kill(signal);
      return exited;
    },
  };

  try {
    // A process whose output matched may have exited since, on purpose.
    const findState = async () => {
      if (options.readyOutput?.test(output)) return 'ready';
      return hasExited() ? 'exited' : (await isReady(options, output)) && 'ready';
    };
    const onOutput = (poll: () => void) => {
      for (const stream of [child.stdout, child.stderr]) stream?.on('data', poll);
    };
    const description = `${file} to be ready`;
    const state = await waitFor(findState, {
      description,
      ...(options.readyOutput && { onChange: onOutput }), // otherwise a request would follow each line
      ...(timeoutMs && { timeoutMs }),
    });
    if (state === 'exited') throw new Error(`${file} exited`);
  } catch (cause) {
    await started.stop('SIGKILL');
    throw new Error(`${file} did not become ready; it wrote:\n${output}`, { cause });
  }
  return started;
}

async function isReady({ readyUrl, readyOutput }: ProcessOptions, output: string): Promise<boolean> {
  if (readyOutput) return readyOutput.test(output);
  if (!readyUrl) return true;
  const response = await fetch(readyUrl, { signal: AbortSignal.timeout(10_000) });
  await response.body?.cancel();
  return response.ok;
}

interface ProgramOptions {
  /** Path of the program. */
  program: string;
  args: readonly string[];
  /** The loopback port that it listens on once it is up. */
  port: number;
  /** File that its output is appended to; the error quotes it if the program does not start. */
  logFile: string;
  /** Variables in addition to those of this process. */
  env?: NodeJS.ProcessEnv | undefined;
  /** Whether it runs in its own process group, so that Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
}

export interface RunningProgram {
  port: number;
  pid: number;
  /** Sends the signal and resolves when the program has exited and another one can start in its place. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/**
 * Runs a server that is not a Node script until it is stopped.
 * @throws Error with the log if it does not start
 */
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
      // A child process that Redis forked to save data outlives it briefly, and keeps the port and the lock on the
      // files.
      await waitFor(async () => !(await isListening(port)), { description: `${program} to release its port` });
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

/** Whether the process runs. A killed process that is not reaped yet, a zombie, counts as gone. */
export async function isRunning(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return !/\) Z /.test(stat);
}

/** The running children of a process. Linux only; empty elsewhere. */
export async function findChildren(pid: number): Promise<number[]> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return children.split(' ').filter(Boolean).map(Number);
}
