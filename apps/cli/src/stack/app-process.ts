import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { prettyFactory } from 'pino-pretty';
import { UserError } from '../user-error.js';
import { inRepository } from './stack-file.js';

export type AppProcess = {
  name: string;
  /** Port of /livez, /readyz and /metrics. */
  internalPort: number;
  /** Resolves when the process has ended, with the reason. */
  ended: Promise<string>;
  /** Sends SIGTERM and resolves when the process has drained and ended. */
  stop(): Promise<void>;
};

type StartOptions = {
  env: NodeJS.ProcessEnv;
  internalPort: number;
  /** Aborts the start. */
  signal: AbortSignal;
};

/** Starts an app and resolves when it is ready. @throws UserError if it does not become ready; it has then ended */
export async function startApp(name: string, { env, internalPort, signal }: StartOptions): Promise<AppProcess> {
  const child = spawn(process.execPath, ['--enable-source-maps', inRepository(`apps/${name}/dist/main.js`)], {
    env: { ...env, INTERNAL_HOST: '127.0.0.1', INTERNAL_PORT: String(internalPort) },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    // In its own process group, so Ctrl-C reaches only `opm up`, which then stops the apps in order.
    detached: true,
  });
  if (child.stdout) printLog(name, child.stdout);
  child.stderr?.pipe(process.stderr, { end: false });
  const ended = once(child, 'exit').then(([code, killedBy]) => (killedBy ? `signal ${killedBy}` : `exit code ${code}`));
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    await ended;
  };
  try {
    await untilReady(name, child, internalPort, signal);
  } catch (error) {
    await stop();
    throw error;
  }
  return { name, internalPort, ended, stop };
}

/**
 * Prints a warning with its error's message only, because the process recovers by itself. Prints an error with its
 * stack.
 */
function printLog(name: string, log: Readable): void {
  const options = { translateTime: 'HH:MM:ss', singleLine: true };
  const format = prettyFactory({ ...options, ignore: 'name', messageFormat: `${name}: {msg}` });
  const formatWarning = prettyFactory({
    ...options,
    ignore: 'name,err',
    messageFormat: `${name}: {msg}{if err.message}: {err.message}{end}`,
  });
  createInterface({ input: log }).on('line', (line) => {
    process.stdout.write((line.startsWith('{"level":"warn"') ? formatWarning : format)(line));
  });
}

/** Timeout of one readiness check. */
const READY_TIMEOUT_MS = 3_000;
/** A small machine needs half a minute to start all apps at once. */
const START_TIMEOUT_MS = 120_000;

async function untilReady(name: string, child: ChildProcess, internalPort: number, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (child.exitCode === null && child.signalCode === null) {
    const ready = await fetch(`http://127.0.0.1:${internalPort}/readyz`, {
      signal: AbortSignal.timeout(READY_TIMEOUT_MS),
    }).catch(() => undefined);
    if (ready?.ok) return;
    if (signal.aborted) throw new UserError(`${name} was stopped before it was ready`);
    if (performance.now() > deadline) {
      const why = (await ready?.text()) ?? 'it does not answer';
      throw new UserError(`${name} is not ready after ${START_TIMEOUT_MS / 1_000} s: ${why}`);
    }
    await delay(50);
  }
  throw new UserError(`${name} did not start; see its log above`);
}
