import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import pretty from 'pino-pretty';
import { UserError } from '../user-error.js';
import { inRepository } from './repository.js';

export type AppProcess = {
  name: string;
  /** Where it answers /livez, /readyz and /metrics. */
  internalPort: number;
  /** Resolves when the process has ended, with the reason. */
  ended: Promise<string>;
  /** SIGTERM, and resolves when the process has drained and ended. */
  stop(): Promise<void>;
};

type StartOptions = {
  env: NodeJS.ProcessEnv;
  internalPort: number;
  /** Ends the start. */
  signal: AbortSignal;
};

/** Starts one of our apps and resolves when it is ready. @throws UserError where it is not, and has ended */
export async function startApp(name: string, { env, internalPort, signal }: StartOptions): Promise<AppProcess> {
  const child = spawn(process.execPath, ['--enable-source-maps', inRepository(`apps/${name}/dist/main.js`)], {
    env: { ...env, INTERNAL_HOST: '127.0.0.1', INTERNAL_PORT: String(internalPort) },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    // A group of its own: Ctrl-C reaches only this process, which then stops all in the right order.
    detached: true,
  });
  child.stdout?.pipe(
    pretty({
      ignore: 'pid,hostname,name',
      messageFormat: `${name}: {msg}`,
      translateTime: 'HH:MM:ss',
      singleLine: true,
      sync: true,
    }),
  );
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

const READY_TIMEOUT_MS = 3_000;

async function untilReady(name: string, child: ChildProcess, internalPort: number, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (child.exitCode === null && child.signalCode === null) {
    const ready = await fetch(`http://127.0.0.1:${internalPort}/readyz`, {
      signal: AbortSignal.timeout(READY_TIMEOUT_MS),
    }).catch(() => undefined);
    if (ready?.ok) return;
    if (signal.aborted) throw new UserError(`${name} was told to end before it was ready`);
    if (Date.now() > deadline) {
      throw new UserError(`${name} is not ready after 30 s: ${(await ready?.text()) ?? 'it does not answer'}`);
    }
    await delay(50);
  }
  throw new UserError(`${name} could not start; the reason stands above`);
}
