import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { waitFor } from './wait-for.js';

export interface ProcessOptions {
  /** The script that Node runs. */
  file: string;
  args?: readonly string[];
  /** On top of the environment of the tests. */
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Ready once a GET answers 2xx, … */
  readyUrl?: string;
  /** … once the output matches, or, with neither, at once. */
  readyOutput?: RegExp;
  timeoutMs?: number;
  /** Ctrl-C in the terminal does not reach it. */
  detached?: boolean;
}

export interface ProcessExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface TestProcess {
  pid: number;
  exited: Promise<ProcessExit>;
  /** All that it has written so far, to either stream. */
  output(): string;
  /** Sends the signal and resolves when the process has exited; at once when it already has. */
  stop(signal?: NodeJS.Signals): Promise<ProcessExit>;
}

/** The child dies with its test runner, even one killed with -9: the channel between them closes. */
const LEASH = `process.on('disconnect', () => process.kill(process.pid, 'SIGKILL')); process.channel.unref();`;

export async function startProcess(options: ProcessOptions): Promise<TestProcess> {
  const { file, args = [], env, cwd, timeoutMs, detached = false } = options;
  const child = spawn(process.execPath, ['--import', `data:text/javascript,${LEASH}`, file, ...args], {
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
    // One that has said what it is waited for may have exited since, on purpose.
    const findState = async () => {
      if (options.readyOutput?.test(output)) return 'ready';
      return hasExited() ? 'exited' : (await isReady(options, output)) && 'ready';
    };
    const state = await waitFor(findState, { description: `${file} to be ready`, ...(timeoutMs && { timeoutMs }) });
    if (state === 'exited') throw new Error(`${file} has exited`);
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
